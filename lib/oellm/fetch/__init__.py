"""oe-fetch: models and data into the cache."""
