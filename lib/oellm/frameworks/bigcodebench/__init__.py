"""bigcodebench: reading its results."""
