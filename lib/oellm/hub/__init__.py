"""The Hugging Face hub, and its cache on disk."""
