"""lighteval: reading its results."""
