"""Metric records as a matrix: cells, averages, and the rows that are printed."""
