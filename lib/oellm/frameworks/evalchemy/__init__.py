"""The framework evalchemy: its results are read, it is not run."""
