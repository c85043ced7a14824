"""Inboxes under races, crashes, faults and cancellation."""
