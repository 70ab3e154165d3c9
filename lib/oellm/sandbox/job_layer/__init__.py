"""What runs in the job layer, a process of its own that builds the sandbox of one program."""
