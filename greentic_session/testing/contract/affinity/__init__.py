"""The contract of affinity."""
