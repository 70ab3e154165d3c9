"""What the commands share that run other commands."""
