"""Contract tests of the flow runtime."""
