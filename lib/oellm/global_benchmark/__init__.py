"""Global Benchmarks: its configuration file, task names and results, over oellm's own commands."""
