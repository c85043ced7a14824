"""The Redis backend: scripts, stored format, transport."""
