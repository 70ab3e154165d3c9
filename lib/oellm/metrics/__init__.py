"""Scores in one form, whichever tool they come from."""
