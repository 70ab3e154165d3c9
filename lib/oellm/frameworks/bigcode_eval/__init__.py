"""bigcode-evaluation-harness: reading its results."""
