"""Tests of events in races, and of workers that die."""
