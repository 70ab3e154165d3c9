"""Runs programs that run what a model has written: in containers and namespaces, with limits."""
