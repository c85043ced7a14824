"""Strategies that derive the session key of a message, which decides its order."""

from __future__ import annotations

from .extractors import SessionKeyExtractor, extractor_for, text_of
from .strategies import (
    AnyStrategy,
    CompositeKeyStrategy,
    CustomStrategy,
    DynamicStrategy,
    FallbackStrategy,
    KeyStrategy,
    NoOrderingStrategy,
    SessionKeyGenerator,
    SingleFieldStrategy,
    strategy_for,
)
from .time_partition import TimePartitionedStrategy

__all__ = [
    "AnyStrategy",
    "CompositeKeyStrategy",
    "CustomStrategy",
    "DynamicStrategy",
    "FallbackStrategy",
    "KeyStrategy",
    "NoOrderingStrategy",
    "SessionKeyExtractor",
    "SessionKeyGenerator",
    "SingleFieldStrategy",
    "TimePartitionedStrategy",
    "extractor_for",
    "strategy_for",
    "text_of",
]
