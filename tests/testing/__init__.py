"""Tests of the test kit itself: proxies, histories, checkers, servers."""
