"""What oe-build does: it builds, pulls, pushes, checks and lists images."""
