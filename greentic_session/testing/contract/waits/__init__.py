"""The contract of waits."""
