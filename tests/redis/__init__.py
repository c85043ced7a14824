"""Tests of the Redis backend: scripts, stored format, transport."""
