"""What a shell offers when the user presses TAB, from the manuals of the commands."""
