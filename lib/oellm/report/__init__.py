"""oe-report: makes a page and figures of metric records."""
