"""The contract on every backend, and what holds for the package as a whole."""
