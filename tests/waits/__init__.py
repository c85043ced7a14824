"""Tests of waits under races, crashes, faults and cancellation."""
