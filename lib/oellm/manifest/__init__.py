"""What is evaluated: rows, their cells, their identity."""
