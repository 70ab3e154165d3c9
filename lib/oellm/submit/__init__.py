"""oe-submit: a run's shards become jobs."""
