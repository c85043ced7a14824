"""Faults planted in the package, one at a time: each has to make a test fail.

The files in this folder hold the mutants by subject. ``scripts/soak mutants`` runs them.
"""
