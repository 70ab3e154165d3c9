"""Container images: their definitions and records, and the registries that have them."""
