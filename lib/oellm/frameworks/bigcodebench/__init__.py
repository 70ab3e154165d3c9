"""Reads the results of bigcodebench."""
