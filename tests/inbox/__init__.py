"""Tests of inboxes under races, crashes, faults and cancellation."""
