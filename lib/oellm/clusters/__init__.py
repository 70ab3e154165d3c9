"""Where it runs: the settings of a cluster, and what a job sees of it."""
