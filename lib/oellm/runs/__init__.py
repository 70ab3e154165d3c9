"""The run directory: what the stages leave for each other."""
