"""The interfaces of a backend: records, the store's primitives, and one ABC per capability."""
