"""Processes and threads below this one, and the signals that stop it."""
