"""Extractors, which return the fields of a message as texts.

The texts are the same on every machine and in every release. These types have a text:

* ``str``, unchanged.
* ``int`` of up to 512 bits, in decimal.
* ``bool``, as ``true`` or ``false``.
* :class:`uuid.UUID`, in lower case with hyphens.
* :class:`datetime.date`, as ``2024-02-29``.
* :class:`datetime.datetime` with a fixed offset, in UTC as ``2024-02-29T12:00:00Z``. A fraction of
  a second has six digits.
* :class:`enum.Enum`, as its value, if the value has a text.

So a message has the same texts as a struct and as a dict, if its times are in UTC. Other values
count as absent, like ``None``, ``msgspec.UNSET`` and the empty text:

* ``float`` and ``Decimal``, because JSON readers return 1, 1.0 or 1E0 for the same message.
* A time without an offset, or with an offset from the machine's time zone database.
* Bytes and containers, because they have several spellings and orders.
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
"""Maximum depth of a path. The limit also ends the search in a message that contains itself."""

_ABSENT: Final = object()
# Types whose attributes are not fields of a message: `(5).real`, `date.year`, `Enum.name`.
_VALUES: Final = (str, int, float, complex, Decimal, UUID, date, time, timedelta, Enum, type)


class SessionKeyExtractor(Protocol):
    """Returns the metadata of a message. A subclass implements :meth:`get_metadata`.

    A message may implement this protocol. :func:`extractor_for` makes an extractor for other
    objects.
    """

    @abstractmethod
    def get_metadata(self, field: str, /) -> str | None:
        """Return the text of a field, or ``None`` if the field is unknown or has no value.

        Every call for the same field of the same message returns the same text.
        """
        ...

    def list_metadata_keys(self) -> list[str]:
        """Return the names of all fields that have a text. The default is no names."""
        return []

    def get_all_metadata(self) -> dict[str, str]:
        """Return the text of each listed field."""
        found = ((name, self.get_metadata(name)) for name in self.list_metadata_keys())
        return {name: text for name, text in found if text is not None}


def text_of(value: object) -> str | None:
    """Return the text of a value, or ``None``. The module docstring lists the types with a text."""
    if isinstance(value, Enum):
        value = cast("object", value.value)
    if isinstance(value, str):
        return str.__str__(value) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # The limit bounds the work and stays below Python's limit on the length of decimals.
        return int.__repr__(value) if int.bit_length(value) <= _MAX_INT_BITS else None
    if isinstance(value, UUID):
        return UUID.__str__(value)
    if isinstance(value, datetime):
        return _instant(value)
    if isinstance(value, date):
        return date.isoformat(value)
    return None


def _instant(value: datetime) -> str | None:
    # Without a date, only a zone with a fixed offset returns its offset.
    offset = None if value.tzinfo is None else value.tzinfo.utcoffset(None)
    if offset is None:
        return None
    try:
        # The plain type's subtraction, because a subclass may override it.
        there = datetime.combine(datetime.date(value), datetime.time(value), UTC) - offset
    except OverflowError:  # before the year 1, or after 9999
        return None
    return there.isoformat().replace("+00:00", "Z")


def extractor_for(message: object) -> SessionKeyExtractor:
    """Return the metadata of any object.

    * A message with a ``get_metadata`` method is its own extractor. Methods that it lacks come from
      :class:`SessionKeyExtractor`.
    * The fields of a mapping are its text keys. The fields of any other object (msgspec struct,
      dataclass, named tuple, plain object) are its attributes and properties that do not start with
      an underscore. A scalar, a list or a class has no fields.
    * A dot selects a field of a field, up to eight names deep: ``"chat.id"``. At each step the rest
      of the path is first looked up as one name, so the flat key ``"chat.id"`` of a mapping wins.
    * Texts are those of the module docstring. All fields with a text are listed, except those
      inside properties and those that ``__getattr__`` computes. These are found by name only.

    Nothing is copied. Reading changes nothing. It raises only what the message's own code raises, a
    property for example, except ``AttributeError``, which means absent.

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
    """Completes a message that has ``get_metadata`` and lacks another method."""

    __slots__ = ("_message",)

    def __init__(self, message: SessionKeyExtractor) -> None:
        self._message = message

    def __repr__(self) -> str:
        # Without the values, which may be secret.
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
        # Without the values, which may be secret.
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
        # Lists only names that `get_metadata` finds. A name with a dot may be hidden by a path.
        names = dict.fromkeys(_names(self._message, ()))
        return [name for name in names if self.get_metadata(name) is not None]


def _member(holder: object, name: str) -> object:
    if isinstance(holder, Mapping):
        mapping = cast("Mapping[object, object]", holder)
        # Not `[]`, which would add the key to a defaultdict.
        return mapping.get(name, _ABSENT)
    if name.startswith("_") or "." in name or isinstance(holder, _VALUES):
        return _ABSENT
    return getattr(holder, name, _ABSENT)


def _names(holder: object, above: tuple[int, ...]) -> Iterator[str]:
    """Yield the paths to all texts. ``above`` has the ids of the enclosing objects."""
    if len(above) == _MAX_STEPS or id(holder) in above:
        return
    for name in _stored(holder):
        value = _member(holder, name)
        if text_of(value) is not None:
            yield name
        else:
            for rest in _names(value, (*above, id(holder))):
                yield f"{name}.{rest}"
    # A computed value may be new at each read, without an end. So only its own text is listed.
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
