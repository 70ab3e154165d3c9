"""Reads the results of bigcode-evaluation-harness."""
