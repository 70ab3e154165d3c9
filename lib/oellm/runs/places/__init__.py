"""Where run directories are: made, listed, and found by the names of their runs."""
