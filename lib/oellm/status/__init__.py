"""oe-status: how far a run is."""
