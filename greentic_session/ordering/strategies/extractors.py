"""Extractors of a message's fields as texts, the same on every machine and release.

A value has a text if every reader of the message would write the same one:

* ``str``; ``int`` in decimal, of up to 512 bits; ``bool`` as ``true`` or ``false``;
* :class:`uuid.UUID`, lower-case with hyphens; :class:`datetime.date` as ``2024-02-29``;
* :class:`datetime.datetime` with a fixed offset, in UTC as ``2024-02-29T12:00:00Z``, with six
  digits of a second where it is not whole;
* an :class:`enum.Enum` whose value is one of these, as its value.

So a message that is decoded into a struct and the same one as a dict have the same texts, as far as
its times are in UTC. Everything else counts as absent, like ``None``, ``msgspec.UNSET`` and the
empty text:

* ``float`` and ``Decimal``: a JSON reader may return 1, 1.0 or 1E0 for one and the same message;
* a time without an offset, or with one that depends on the machine's time zone database;
* bytes and containers: bytes have several spellings, and containers several orders.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Final, Protocol, cast, final
from uuid import UUID

from ..._compat import override

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SessionKeyExtractor", "extractor_for", "text_of"]

_OPTIONAL_METHODS: Final = ("list_metadata_keys", "get_all_metadata")
_MAX_INT_BITS: Final = 512
_MAX_STEPS: Final = 8
"""How deep a path leads: deeper than messages are, and an end to those that hold themselves."""

_ABSENT: Final = object()
# What has attributes of its own that no message put there: `(5).real`, `date.year`, `Enum.name`.
_VALUES: Final = (str, int, float, complex, Decimal, UUID, date, time, timedelta, Enum, type)


class SessionKeyExtractor(Protocol):
    """Metadata of a message. Inherit it to write :meth:`get_metadata` alone.

    A message may implement it itself; :func:`extractor_for` gives every other object one.
    """

    @abstractmethod
    def get_metadata(self, field: str, /) -> str | None:
        """Return the text of a field; ``None`` where the field is unknown or has no value.

        The same field of the same message gives the same text at every call.
        """
        ...

    def list_metadata_keys(self) -> list[str]:
        """Return the names of all fields that have a text; none unless overridden."""
        return []

    def get_all_metadata(self) -> dict[str, str]:
        """Return the texts of all fields that are listed."""
        found = ((name, self.get_metadata(name)) for name in self.list_metadata_keys())
        return {name: text for name, text in found if text is not None}


def text_of(value: object) -> str | None:
    """Return the text of a value, or ``None`` if it has none: see the head of this module."""
    if isinstance(value, Enum):
        value = cast("object", value.value)
    if isinstance(value, str):
        return str.__str__(value) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Also spares the work, and Python's own limit on the length of decimals.
        return int.__repr__(value) if int.bit_length(value) <= _MAX_INT_BITS else None
    if isinstance(value, UUID):
        return UUID.__str__(value)
    if isinstance(value, datetime):
        return _instant(value)
    if isinstance(value, date):
        return date.isoformat(value)
    return None


def _instant(value: datetime) -> str | None:
    # Asked without a date, only a zone that is one offset for ever knows its offset.
    offset = None if value.tzinfo is None else value.tzinfo.utcoffset(None)
    if offset is None:
        return None
    try:
        # By the plain type's own sum: a subclass may count and print as it likes.
        there = datetime.combine(datetime.date(value), datetime.time(value), UTC) - offset
    except OverflowError:  # before the year 1, or after 9999
        return None
    return there.isoformat().replace("+00:00", "Z")


def extractor_for(message: object) -> SessionKeyExtractor:
    """Return the metadata of any object.

    * A message with a ``get_metadata`` of its own is its own metadata: one with all three methods
      is returned as it is, and any other gets those that it lacks from
      :class:`SessionKeyExtractor`.
    * Fields of a mapping are its keys that are texts; of any other object (msgspec struct,
      dataclass, named tuple, plain object) its attributes and properties that do not start with
      an underscore. A scalar, a list or a class has none.
    * A dot leads inside, up to eight names deep: ``"chat.id"``. At each step the whole rest of
      the path is tried as one name first, so the flat key ``"chat.id"`` of a mapping wins.
    * Texts are those of :func:`text_of`. All that have one are listed, those inside properties and
      those that ``__getattr__`` makes up excepted: these are found by name only.

    Nothing is copied. Reading changes nothing and never raises, unless the message's own code does
    (a property, say): that is not hidden, except for its ``AttributeError``.

    :param message: the message, of any type.
    """
    cls = type(message)
    if not callable(getattr(cls, "get_metadata", None)):
        return _Metadata(message)
    if all(callable(getattr(cls, name, None)) for name in _OPTIONAL_METHODS):
        return cast("SessionKeyExtractor", message)
    return _Completed(cast("SessionKeyExtractor", message))


@final
class _Completed(SessionKeyExtractor):
    """The metadata of a message that has ``get_metadata`` and lacks another method."""

    __slots__ = ("_message",)

    def __init__(self, message: SessionKeyExtractor) -> None:
        self._message = message

    def __repr__(self) -> str:
        # Without the values, which may be anybody's secret.
        return f"<metadata of a {type(self._message).__name__}>"

    @override
    def get_metadata(self, field: str, /) -> str | None:
        return self._message.get_metadata(field)

    @override
    def list_metadata_keys(self) -> list[str]:
        if callable(getattr(type(self._message), "list_metadata_keys", None)):
            return self._message.list_metadata_keys()
        return super().list_metadata_keys()

    @override
    def get_all_metadata(self) -> dict[str, str]:
        if callable(getattr(type(self._message), "get_all_metadata", None)):
            return self._message.get_all_metadata()
        return super().get_all_metadata()


@final
class _Metadata(SessionKeyExtractor):
    __slots__ = ("_message",)

    def __init__(self, message: object) -> None:
        self._message = message

    def __repr__(self) -> str:
        # Without the values, which may be anybody's secret.
        return f"<metadata of a {type(self._message).__name__}>"

    @override
    def get_metadata(self, field: str, /) -> str | None:
        if not isinstance(cast("object", field), str):
            return None
        here, rest = self._message, str.__str__(field)
        for _ in range(_MAX_STEPS):
            found = _member(here, rest)
            if found is not _ABSENT:
                return text_of(found)
            name, dot, rest = rest.partition(".")
            if not dot:
                return None
            here = _member(here, name)
        return None

    @override
    def list_metadata_keys(self) -> list[str]:
        # Of two ways to one name the path takes one, and to names with a dot inside none.
        names = dict.fromkeys(_names(self._message, ()))
        return [name for name in names if self.get_metadata(name) is not None]


def _member(holder: object, name: str) -> object:
    if isinstance(holder, Mapping):
        mapping = cast("Mapping[object, object]", holder)
        # Not by `[]`: a defaultdict would grow.
        return mapping.get(name, _ABSENT)
    if name.startswith("_") or "." in name or isinstance(holder, _VALUES):
        return _ABSENT
    return getattr(holder, name, _ABSENT)


def _names(holder: object, above: tuple[int, ...]) -> Iterator[str]:
    """Yield the paths to all texts; ``above`` are the ids of the objects on the way here."""
    if len(above) == _MAX_STEPS or id(holder) in above:
        return
    for name in _stored(holder):
        value = _member(holder, name)
        if text_of(value) is not None:
            yield name
        else:
            for rest in _names(value, (*above, id(holder))):
                yield f"{name}.{rest}"
    # What is made anew at each look may have no end: its own text, and nothing inside it.
    yield from _computed(holder)


def _stored(holder: object) -> list[str]:
    if isinstance(holder, Mapping):
        keys: list[object] = list(cast("Mapping[object, object]", holder))
        return [str.__str__(key) for key in keys if isinstance(key, str)]
    if isinstance(holder, _VALUES):
        return []
    cls = type(holder)
    declared: object = getattr(cls, "__struct_fields__", getattr(cls, "_fields", ()))
    names: dict[object, None] = dict.fromkeys(
        cast("tuple[object, ...]", declared) if isinstance(declared, tuple) else ()
    )
    own: object = getattr(holder, "__dict__", None)
    if isinstance(own, dict):
        names.update(dict.fromkeys(cast("dict[object, object]", own)))
    for base in cls.__mro__:
        slots = [name for name, made in vars(base).items() if type(made) is MemberDescriptorType]
        names.update(dict.fromkeys(slots))
    return [name for name in names if isinstance(name, str) and not name.startswith("_")]


def _computed(holder: object) -> list[str]:
    if isinstance(holder, (Mapping, *_VALUES)):
        return []
    return [
        name
        for base in type(holder).__mro__
        for name, made in vars(base).items()
        if isinstance(made, (property, cached_property)) or text_of(made) is not None
    ]
