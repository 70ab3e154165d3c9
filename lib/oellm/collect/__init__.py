"""Results become metric records, pivots and comparisons."""
