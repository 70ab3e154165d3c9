"""Helpers shared by the readers of frameworks' results."""
