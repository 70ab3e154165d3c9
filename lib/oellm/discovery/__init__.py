"""What a machine is: the proposal of an entry for the user's clusters file."""
