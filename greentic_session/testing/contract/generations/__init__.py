"""The contract of generations."""
