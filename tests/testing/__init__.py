"""The test kit itself: proxies, histories, checkers, servers."""
