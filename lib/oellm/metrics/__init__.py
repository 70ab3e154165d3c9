"""Scores in one form, whatever they come from."""
