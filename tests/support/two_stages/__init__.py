"""A made-up framework for tests whose rows have two stages, or one."""
