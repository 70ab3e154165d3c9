"""Evaluate many language models on many benchmarks across Slurm clusters."""

__version__ = "0.4.0"
