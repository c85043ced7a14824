"""The lifecycle of sessions."""
