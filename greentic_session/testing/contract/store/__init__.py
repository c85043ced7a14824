"""The contract of the store's verbs."""
