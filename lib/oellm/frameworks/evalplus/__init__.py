"""evalplus: reading its results."""
