"""Reads the results of evalplus."""
