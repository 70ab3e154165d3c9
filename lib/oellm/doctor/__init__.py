"""oe-doctor: whether this machine, its Slurm and its nodes have what a run needs."""
