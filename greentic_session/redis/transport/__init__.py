"""Connections, servers, topologies and retries. No module here knows sessions."""
