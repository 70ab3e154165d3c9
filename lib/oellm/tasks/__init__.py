"""Suites of tasks, and languages."""
