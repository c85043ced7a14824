"""The contract of timers."""
