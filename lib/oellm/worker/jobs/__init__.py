"""What a worker is given, and how it ends."""
