"""What a backend implements: records, the store's primitives and one ABC per capability."""
