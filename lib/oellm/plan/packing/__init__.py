"""Packing: rows of models into shards."""
