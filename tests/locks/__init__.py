"""Tests of locks under contention, faults and cancellation."""
