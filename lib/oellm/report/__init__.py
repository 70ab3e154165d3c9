"""oe-report: metric records become a page and figures."""
