"""Rigs, models and golden lists that several tests share."""
