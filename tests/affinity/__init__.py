"""Affinity of keys to workers."""
