"""README, examples and benchmarks run."""
