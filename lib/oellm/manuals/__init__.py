"""The manuals of commands, which are their --help: how they are read and shown."""
