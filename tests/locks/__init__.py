"""Locks under contention, faults and cancellation."""
