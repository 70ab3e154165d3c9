"""Which tasks there are, what defines them, and what they load."""
