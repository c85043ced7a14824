"""Tests of the contract on every backend, and of the package as a whole."""
