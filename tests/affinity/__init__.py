"""Tests of affinity of keys to workers."""
