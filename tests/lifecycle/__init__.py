"""Tests of the lifecycle of sessions."""
