"""What oe-build does: it makes, checks and lists the images of containers/."""
