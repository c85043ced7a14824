"""The contract of inboxes."""
