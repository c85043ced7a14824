"""Strategies that derive a session key from a message.

Messages of one key are handled in order, and messages of different keys concurrently. A message
without a key (``None``) waits for no other message. A key is 1 to 128 printable ASCII characters. A
text that is not such a key becomes ``None``, never an error.

Strategies are pure and frozen. Tasks, threads and processes may share them. Strategies with equal
fields are equal.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, cast, final

from ..._compat import override
from ..._validation import require_text
from ...errors import InvalidInputError
from ...model import SessionKey
from .extractors import SessionKeyExtractor, extractor_for

__all__ = [
    "AnyStrategy",
    "CompositeKeyStrategy",
    "CustomStrategy",
    "DynamicStrategy",
    "FallbackStrategy",
    "KeyStrategy",
    "NoOrderingStrategy",
    "SessionKeyGenerator",
    "SingleFieldStrategy",
    "strategy_for",
]

MAX_ORDERING_KEY_CHARS: Final = 128
_MAX_FIELD_CHARS: Final = 512
_VERSION_2: Final = "v2:"


class SessionKeyGenerator(Protocol):
    """Derives a session key from a message."""

    def generate_key(self, extractor: SessionKeyExtractor, /) -> SessionKey | None:
        """Return the key of a message, or ``None`` if the message needs no order.

        Every call for the same message returns the same key.

        :param extractor: the message's metadata.
        """
        ...


AnyStrategy: TypeAlias = SessionKeyGenerator | Callable[[SessionKeyExtractor], str | None]
"""A generator, or a plain callable with the same signature. The result is checked, so a callable
may return any text."""


class KeyStrategy(ABC):
    """A generator that checks its keys and accepts any object as a message.

    Implement :meth:`_make_text` in a subclass, or pass a plain callable to :func:`strategy_for`.
    """

    @abstractmethod
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        """Return the text of a message's key, or ``None``. The caller checks the text."""

    @final
    def generate_key(self, extractor: SessionKeyExtractor, /) -> SessionKey | None:
        """Return the key of a message, or ``None`` if it has no valid key.

        :param extractor: the message's metadata.
        """
        return _valid_key(self._make_text(extractor))

    @final
    def key_of(self, message: object, /) -> SessionKey | None:
        """Return the key of any object. Its metadata comes from :func:`extractor_for`.

        :param message: a mapping, msgspec struct, dataclass, extractor or other object.
        """
        return self.generate_key(extractor_for(message))


def _valid_key(text: object) -> SessionKey | None:
    if not isinstance(text, str):
        return None
    text = str.__str__(text)
    if 0 < len(text) <= MAX_ORDERING_KEY_CHARS and text.isascii() and text.isprintable():
        return SessionKey(text)
    return None


def _value_of(extractor: SessionKeyExtractor, field: str) -> str | None:
    """Return the value of a field. An empty value would give unrelated messages the same key."""
    value: object = extractor.get_metadata(field)
    return (str.__str__(value) or None) if isinstance(value, str) else None


@final
@dataclass(frozen=True)
class SingleFieldStrategy(KeyStrategy):
    """Uses one field as the key: ``12345``, or ``order-12345`` with a prefix.

    :ivar field: name of the field, 1 to 512 characters. :func:`extractor_for` explains paths.
    :ivar prefix: printable ASCII, 1 to 126 characters, or ``None``.
    :raises InvalidInputError: naming ``field`` or ``prefix``.
    """

    field: str
    prefix: str | None = None

    def __post_init__(self) -> None:
        set_field(self, "field", require_text(self.field, "field", _MAX_FIELD_CHARS))
        if self.prefix is not None:
            # Two characters are left: the hyphen and an id of one character.
            prefix = _require_key_text(self.prefix, "prefix", MAX_ORDERING_KEY_CHARS - 2)
            set_field(self, "prefix", prefix)

    @override
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        value = _value_of(extractor, self.field)
        if value is None or self.prefix is None:
            return value
        return f"{self.prefix}-{value}"


@final
@dataclass(frozen=True)
class CompositeKeyStrategy(KeyStrategy):
    """Joins several fields into the key: ``tenant-123-resource-456``.

    The key is ``None`` if a field is absent, if the joined text is not a valid key, or if there are
    no fields.

    Within one strategy, different lists of values have different keys. A plain join does not ensure
    this: joined by ``-``, the values ``a-b`` and ``c`` equal ``a`` and ``b-c``. So the form depends
    on the values:

    * Plain, if the separator occurs equally often in each value (in most cases never). Such a text
      can be split again, into runs of equal length.
    * Otherwise, and if the plain text starts with ``v2:``, it is ``v2:`` and each value as a
      netstring: ``3:a-b,1:c,`` (https://cr.yp.to/proto/netstrings.txt).
    * ``v2:`` and the hex SHA-256 of the netstrings, if they exceed 128 characters.

    If people read the keys, choose a separator that the values never contain. Keys of two
    strategies may be equal. Distinguish them, for example by a prefix of
    :class:`SingleFieldStrategy`.

    :ivar fields: a tuple with the names of the fields, in order.
    :ivar separator: printable ASCII, 1 to 126 characters.
    :raises InvalidInputError: naming ``fields`` or ``separator``.
    """

    fields: Sequence[str]
    separator: str = "-"

    def __post_init__(self) -> None:
        names = _require_several(self.fields, "fields")
        names = tuple(require_text(name, "fields", _MAX_FIELD_CHARS) for name in names)
        set_field(self, "fields", names)
        separator = _require_key_text(self.separator, "separator", MAX_ORDERING_KEY_CHARS - 2)
        set_field(self, "separator", separator)

    @override
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        values: list[str] = []
        for field in self.fields:
            value = _value_of(extractor, field)
            if value is None:
                return None
            values.append(value)
        joined = self.separator.join(values)
        if _valid_key(joined) is None:
            return None
        if self._is_reversible(joined, values):
            return joined
        # The values are printable ASCII here, so a character is a byte.
        netstrings = _VERSION_2 + "".join(f"{len(value)}:{value}," for value in values)
        if len(netstrings) <= MAX_ORDERING_KEY_CHARS:
            return netstrings
        # A digest contains no colon, and netstrings do. So the two forms differ.
        return _VERSION_2 + hashlib.sha256(netstrings.encode()).hexdigest()

    def _is_reversible(self, joined: str, values: list[str]) -> bool:
        """Return whether the joined text can be split into the values again."""
        if joined.startswith(_VERSION_2):
            return False
        pieces = joined.split(self.separator)
        run, rest = divmod(len(pieces), len(values))
        return rest == 0 and values == [
            self.separator.join(pieces[at : at + run]) for at in range(0, len(pieces), run)
        ]


@final
@dataclass(frozen=True)
class FallbackStrategy(KeyStrategy):
    """Uses the first of several strategies that returns a key.

    The strategies run in order, and none after the first key. The key is ``None`` if none returns a
    key. An invalid key of a custom strategy counts as no key.

    :ivar strategies: a tuple of strategies.
    :raises InvalidInputError: naming ``strategies``.
    """

    strategies: Sequence[AnyStrategy]

    def __post_init__(self) -> None:
        several = _require_several(self.strategies, "strategies")
        set_field(self, "strategies", tuple(require_strategy(one, "strategies") for one in several))

    @override
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        for strategy in cast("tuple[KeyStrategy, ...]", self.strategies):
            key = strategy.generate_key(extractor)
            if key is not None:
                return key
        return None


@final
@dataclass(frozen=True)
class NoOrderingStrategy(KeyStrategy):
    """Returns no key. All messages are handled concurrently."""

    @override
    def _make_text(self, _extractor: SessionKeyExtractor, /) -> str | None:
        return None


@final
@dataclass(frozen=True)
class DynamicStrategy(KeyStrategy):
    """Selects a strategy by the message's metadata.

    :ivar select: receives the metadata and returns the strategy that makes the key, or ``None`` if
        the message needs no order. It must return the same strategy for the same message.
    :raises InvalidInputError: naming ``select`` if it is not a callable, or later if it returns
        another type.
    """

    select: Callable[[SessionKeyExtractor], AnyStrategy | None]

    def __post_init__(self) -> None:
        _require_plain_callable(self.select, "select")

    @override
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        chosen = self.select(extractor)
        if chosen is None:
            return None
        return require_strategy(chosen, "select").generate_key(extractor)


@final
@dataclass(frozen=True)
class CustomStrategy(KeyStrategy):
    """Checks the keys of a custom strategy. Its exceptions propagate to the caller.

    :ivar custom: a generator, or a callable from metadata to text or ``None``. Coroutine functions
        are refused.
    :raises InvalidInputError: naming ``custom``.
    """

    custom: AnyStrategy

    def __post_init__(self) -> None:
        _generate(self.custom, "custom")

    @override
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        return _generate(self.custom, "custom")(extractor)


def strategy_for(strategy: AnyStrategy) -> KeyStrategy:
    """Return a strategy that checks the keys of a generator or a plain callable.

    :param strategy: a :class:`KeyStrategy` is returned unchanged.
    :raises InvalidInputError: naming ``strategy``.
    """
    return require_strategy(strategy, "strategy")


def require_strategy(strategy: object, field: str) -> KeyStrategy:
    """Return a strategy that checks its keys.

    :raises InvalidInputError: naming ``field``.
    """
    if isinstance(strategy, KeyStrategy):
        return strategy
    _generate(strategy, field)
    return CustomStrategy(cast("AnyStrategy", strategy))


def _generate(strategy: object, field: str) -> Callable[[SessionKeyExtractor], str | None]:
    """Return the callable that makes the keys of a strategy."""
    # A class has the method too, but unbound.
    whole = strategy if isinstance(strategy, type) else getattr(strategy, "generate_key", strategy)
    _require_plain_callable(whole, field)
    return cast("Callable[[SessionKeyExtractor], str | None]", whole)


def _require_plain_callable(value: object, field: str) -> None:
    if not callable(value) or isinstance(value, type):
        given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InvalidInputError(field, f"expected a strategy or a callable, got {given}")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise InvalidInputError(field, "must be a plain function, got a coroutine function")


def _require_several(values: object, field: str) -> tuple[object, ...]:
    # The order of a set differs between processes.
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Sequence):
        raise InvalidInputError(field, f"expected a sequence, got {type(values).__name__}")
    return tuple(cast("Sequence[object]", values))


def _require_key_text(value: object, field: str, max_chars: int) -> str:
    text = require_text(value, field, max_chars)
    if not (text.isascii() and text.isprintable()):
        raise InvalidInputError(field, "may contain only printable ASCII characters")
    return text


def set_field(strategy: KeyStrategy, field: str, value: object) -> None:
    """Set a field of a frozen strategy to its normalised value, during construction."""
    object.__setattr__(strategy, field, value)
