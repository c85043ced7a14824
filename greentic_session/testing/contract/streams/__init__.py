"""The contract of streams."""
