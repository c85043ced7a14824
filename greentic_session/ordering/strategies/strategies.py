"""Strategies that derive a session key from a message, or none.

Messages of one key are handled in their order, those of different keys concurrently. A message
with the key ``None`` waits for no other message. A key is 1 to 128 printable ASCII characters. A
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
    """Makes a session key of a message."""

    def generate_key(self, extractor: SessionKeyExtractor, /) -> SessionKey | None:
        """Return the key of a message, the same at every call; ``None`` if it waits for nobody.

        :param extractor: the message's metadata.
        """
        ...


AnyStrategy: TypeAlias = SessionKeyGenerator | Callable[[SessionKeyExtractor], str | None]
"""What is taken where a strategy is asked for: a generator, or a plain callable that does the same.
What it returns is checked, so a callable may return any text."""


class KeyStrategy(ABC):
    """A generator whose keys are checked, and which takes any object as a message.

    Subclass it and write :meth:`_make_text`, or pass a plain callable to :func:`strategy_for`.
    """

    @abstractmethod
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        """Return what should be the key of a message, or ``None``. It need not be a valid key."""

    @final
    def generate_key(self, extractor: SessionKeyExtractor, /) -> SessionKey | None:
        """Return the key of a message; ``None`` if it waits for nobody, or has no valid key.

        :param extractor: the message's metadata.
        """
        return _valid_key(self._make_text(extractor))

    @final
    def key_of(self, message: object, /) -> SessionKey | None:
        """Return the key of any object: :meth:`generate_key` of what :func:`extractor_for` sees.

        :param message: mapping, msgspec struct, dataclass, object, or its own extractor.
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
    """Return a field that has a value: an empty one would put strangers into one lane."""
    value: object = extractor.get_metadata(field)
    return (str.__str__(value) or None) if isinstance(value, str) else None


@final
@dataclass(frozen=True)
class SingleFieldStrategy(KeyStrategy):
    """One field is the key: ``12345``, or with a prefix ``order-12345``.

    :ivar field: name of the field, 1 to 512 characters; see :func:`extractor_for` for paths.
    :ivar prefix: printable ASCII, 1 to 126 characters; ``None`` is none.
    :raises InvalidInputError: naming ``field`` or ``prefix``.
    """

    field: str
    prefix: str | None = None

    def __post_init__(self) -> None:
        set_field(self, "field", require_text(self.field, "field", _MAX_FIELD_CHARS))
        if self.prefix is not None:
            # One more, the hyphen and an id of one character would be no key.
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
    """Several fields are the key, joined: ``tenant-123-resource-456``.

    ``None`` if any field is absent, or the joined text is no valid key, or there are no fields.

    No two lists of values share a key. Joined by ``-``, ``a-b`` and ``c`` would be ``a`` and
    ``b-c``. So values are joined plainly only if the separator occurs equally often in each (in
    most cases never), which can be undone: the text is cut into runs of equal length. All others,
    and what would start with ``v2:``, become ``v2:`` and each value as a netstring
    (``3:a-b,1:c,``; https://cr.yp.to/proto/netstrings.txt); where that is over 128 characters,
    ``v2:`` and its hex SHA-256. For keys that are read by people, take a separator that the
    values never hold.

    Lists of values of *one* strategy, that is: keys of two strategies are told apart by you, as by
    a prefix of :class:`SingleFieldStrategy`.

    :ivar fields: names of the fields, in order; a tuple.
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
        if self._tells(joined, values):
            return joined
        # Printable ASCII by now: as many bytes as characters.
        netstrings = _VERSION_2 + "".join(f"{len(value)}:{value}," for value in values)
        if len(netstrings) <= MAX_ORDERING_KEY_CHARS:
            return netstrings
        # A digest has no colon, where netstrings have one.
        return _VERSION_2 + hashlib.sha256(netstrings.encode()).hexdigest()

    def _tells(self, joined: str, values: list[str]) -> bool:
        """Whether the values can be told from the joined text."""
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
    """The first key that any of several strategies makes; ``None`` if all of them make none.

    They are tried in order, and none after the first success. A custom strategy's invalid key is
    no success.

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
    """No key for any message: all of them at once."""

    @override
    def _make_text(self, _extractor: SessionKeyExtractor, /) -> str | None:
        return None


@final
@dataclass(frozen=True)
class DynamicStrategy(KeyStrategy):
    """A strategy chosen by what the message says.

    :ivar select: gets the message's metadata, returns the strategy that makes its key, or ``None``
        if it waits for nobody. It must choose the same way for the same message.
    :raises InvalidInputError: naming ``select`` if it is no callable, or later if it returned
        anything else.
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
    """A strategy of yours, with its keys checked. What it raises reaches the caller.

    :ivar custom: a generator, or a callable from metadata to text or ``None``; no coroutine.
    :raises InvalidInputError: naming ``custom``.
    """

    custom: AnyStrategy

    def __post_init__(self) -> None:
        _generate(self.custom, "custom")

    @override
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        return _generate(self.custom, "custom")(extractor)


def strategy_for(strategy: AnyStrategy) -> KeyStrategy:
    """Return a strategy whose keys are checked, of a generator or a plain callable.

    :param strategy: returned as it is if it is a :class:`KeyStrategy`.
    :raises InvalidInputError: naming ``strategy``.
    """
    return require_strategy(strategy, "strategy")


def require_strategy(strategy: object, field: str) -> KeyStrategy:
    """Return a strategy whose keys are checked.

    :raises InvalidInputError: naming ``field``.
    """
    if isinstance(strategy, KeyStrategy):
        return strategy
    _generate(strategy, field)
    return CustomStrategy(cast("AnyStrategy", strategy))


def _generate(strategy: object, field: str) -> Callable[[SessionKeyExtractor], str | None]:
    """Return what makes the keys of a strategy."""
    # A class has the method, too, but no message to call it with.
    whole = strategy if isinstance(strategy, type) else getattr(strategy, "generate_key", strategy)
    _require_plain_callable(whole, field)
    return cast("Callable[[SessionKeyExtractor], str | None]", whole)


def _require_plain_callable(value: object, field: str) -> None:
    if not callable(value) or isinstance(value, type):
        given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InvalidInputError(field, f"expected a strategy or a callable, got {given}")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise InvalidInputError(field, "is a coroutine function: keys are made without awaiting")


def _require_several(values: object, field: str) -> tuple[object, ...]:
    # A set has an order, too, but another one in the next process.
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Sequence):
        raise InvalidInputError(field, f"expected a sequence, got {type(values).__name__}")
    return tuple(cast("Sequence[object]", values))


def _require_key_text(value: object, field: str, max_chars: int) -> str:
    text = require_text(value, field, max_chars)
    if not (text.isascii() and text.isprintable()):
        raise InvalidInputError(field, "may hold only printable ASCII characters")
    return text


def set_field(strategy: KeyStrategy, field: str, value: object) -> None:
    """Set a field of a frozen strategy that is being made to the form in which it is kept."""
    object.__setattr__(strategy, field, value)
