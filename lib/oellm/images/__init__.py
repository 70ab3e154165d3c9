"""Container images: the definitions that make them, and what is known of an image on disk."""
