"""Waits under races, crashes, faults and cancellation."""
