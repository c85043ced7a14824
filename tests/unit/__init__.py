"""Units that need no server."""
