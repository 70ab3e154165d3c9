"""A framework that is a program, for tests: it answers questions, and counts right answers."""
