"""Files, processes, formats, and the list of all columns; nothing here knows evaluations."""
