"""Connections, servers, topologies and retries. Knows no session."""
