"""oe-render: rows become shards, and shards a run directory."""
