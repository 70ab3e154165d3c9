"""The outputs of first stages in a run directory."""
