"""The framework quiz: two questions about a model, which its configuration answers."""
