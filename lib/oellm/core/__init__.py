"""What knows no evaluation: files, processes, formats, and the list of all columns."""
