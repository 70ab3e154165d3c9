"""Reads the results of lighteval."""
