"""The contract of locks."""
