"""What the readers of several frameworks' results share."""
