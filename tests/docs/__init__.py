"""Tests of the README, the guides, the examples and the benchmarks."""
