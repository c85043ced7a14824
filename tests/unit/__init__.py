"""Unit tests that need no server."""
