"""oe-run-task: rows become results."""
