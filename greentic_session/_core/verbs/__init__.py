"""The verbs of every store, as base classes of :class:`.store.AsyncSessionStore`."""
