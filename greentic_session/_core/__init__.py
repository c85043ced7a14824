"""Private modules that the store, the services and the backends share."""
