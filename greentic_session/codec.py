"""Codecs that convert a session body to the stored bytes and back."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, cast, final

import msgspec

from .model import C, Hidden, OutboxEntry, SessionCursor, SessionMeta

__all__ = ["Codec", "CodecFactory", "JsonCodec", "MessagePackCodec", "SessionBody"]


_KEPT_BYTES: Final = 1 << 16
"""What a codec's buffer may keep; one session of many megabytes is no reason to hold them."""


class SessionBody(msgspec.Struct, Generic[C], frozen=True, kw_only=True, omit_defaults=True):
    """What the stored bytes hold. Token, owner, life and time stand beside them in the record.

    :ivar cursor: as in :class:`Session`.
    :ivar meta: as in :class:`Session`.
    :ivar context: as in :class:`Session`.
    :ivar outbox: as in :class:`Session`.
    """

    cursor: SessionCursor
    meta: SessionMeta
    context: C
    outbox: tuple[OutboxEntry, ...] = ()

    def __repr__(self) -> str:
        """Return the fields without the application's state."""
        return f"SessionBody(cursor={self.cursor!r}, meta={self.meta!r}, {Hidden(self.context)!r})"


class Codec(Protocol[C]):
    """Turns bodies into bytes and back.

    ``encode`` raises :class:`TypeError`, :class:`ValueError`, :class:`OverflowError` or
    :class:`RecursionError` for a value it cannot write, ``decode`` raises
    :class:`msgspec.DecodeError` for bytes it cannot read; the store names them.
    """

    def encode(self, body: SessionBody[C]) -> bytes:
        """Return the bytes to store."""
        ...

    def decode(self, data: bytes) -> SessionBody[C]:
        """Return the body that ``encode`` wrote."""
        ...


CodecFactory = Callable[[Any], Codec[Any]]
"""Makes the codec of a context type; each codec class here is one. ``Any``: a checker cannot say
that the codec's type follows from the type that is passed."""


class _BufferedCodec(Generic[C]):
    # What msgspec's `encode` returns has outgrown its size on the way, and the allocator keeps the
    # rest: half a kilobyte for each session of one. A copy out of one buffer is exact, and is made
    # sooner.

    __slots__ = ("_buffer", "_decode", "_encode", "_encode_into")

    def __init__(
        self,
        encoder: msgspec.json.Encoder | msgspec.msgpack.Encoder,
        decode: Callable[[bytes], SessionBody[C]],
    ) -> None:
        self._encode: Final = encoder.encode
        self._encode_into: Final[Callable[[object, bytearray], None]] = encoder.encode_into
        self._buffer: bytearray | None = bytearray()
        self._decode: Final = decode

    def encode(self, body: SessionBody[C]) -> bytes:
        """Return the body's bytes."""
        # What is encoded may run Python code, a time zone's: it may call this again, or let another
        # thread in. The buffer is one call's; nothing comes between the two halves of this line.
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            return self._encode(body)
        try:
            self._encode_into(body, buffer)
            return bytes(buffer)
        finally:
            if len(buffer) > _KEPT_BYTES:
                buffer.clear()
            self._buffer = buffer

    def decode(self, data: bytes) -> SessionBody[C]:
        """Return the body that :meth:`encode` wrote."""
        return self._decode(data)


@final
class JsonCodec(_BufferedCodec[C]):
    """JSON by msgspec, readable in ``redis-cli``. The default.

    JSON has text keys only and no NaN or infinity. A store with ``verify``, the default, refuses
    what would come back as another value.

    :param context_type: type of :attr:`Session.context`.
    """

    __slots__ = ()

    def __init__(self, context_type: type[C]) -> None:
        decoder = msgspec.json.Decoder(_body_type(context_type))
        super().__init__(msgspec.json.Encoder(), decoder.decode)


@final
class MessagePackCodec(_BufferedCodec[C]):
    """MessagePack by msgspec: smaller and faster, and bytes need no base64.

    :param context_type: type of :attr:`Session.context`.
    """

    __slots__ = ()

    def __init__(self, context_type: type[C]) -> None:
        decoder = msgspec.msgpack.Decoder(_body_type(context_type))
        super().__init__(msgspec.msgpack.Encoder(), decoder.decode)


def _body_type(context_type: type[C]) -> type[SessionBody[C]]:
    # Subscripted at run time: the checker cannot see a type made from a value.
    return cast("type[SessionBody[C]]", cast("Any", SessionBody)[context_type])


def context_classes(context_type: object) -> tuple[type, ...] | None:
    """Return the classes that a context of ``context_type`` is an instance of.

    A store refuses anything else before it writes: such a context would encode, and be
    unreadable for every later caller. ``None`` where no class can tell.
    """
    if isinstance(context_type, typing.NewType):
        return context_classes(context_type.__supertype__)
    if typing.get_origin(context_type) is typing.Annotated:
        return context_classes(typing.get_args(context_type)[0])
    if typing.get_origin(context_type) in (typing.Union, types.UnionType):
        members = [context_classes(member) for member in typing.get_args(context_type)]
        if any(member is None for member in members):
            return None
        return tuple(cls for member in members if member is not None for cls in member)
    origin = cast("object", typing.get_origin(context_type) or context_type)
    if typing.is_typeddict(origin):
        return (dict,)
    if isinstance(origin, type):
        cls = cast("type[object]", origin)
        plain = any(base in (msgspec.Struct, dict) for base in cls.__mro__)
        if plain or hasattr(cls, "__dataclass_fields__"):
            return (cls,)
    return None
