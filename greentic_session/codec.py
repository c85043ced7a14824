"""Codecs that convert a session body to the stored bytes and back."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, cast, final

import msgspec

from ._foreign import DecHook, EncHook, decoding_hook, encoding_hook, is_model
from .model import C, Hidden, OutboxEntry, SessionCursor, SessionMeta

__all__ = ["Codec", "CodecFactory", "JsonCodec", "MessagePackCodec", "SessionBody"]


_KEPT_BYTES: Final = 1 << 16
"""Limit on the memory that a codec's buffer keeps. A single huge session must not occupy it."""


class SessionBody(msgspec.Struct, Generic[C], frozen=True, kw_only=True, omit_defaults=True):
    """The content of a record's stored bytes.

    Token, owner, lifetime and time are separate fields of the record.

    :ivar cursor: as in :class:`Session`.
    :ivar meta: as in :class:`Session`.
    :ivar context: as in :class:`Session`.
    :ivar outbox: as in :class:`Session`.
    :ivar shape: digest of the type that encoded the body, ``mixed`` if the body also holds fields
        of another type. Empty if that type has no named fields, or an earlier release wrote it.
    :ivar schema_version: the ``schema_version`` of the context.
    """

    cursor: SessionCursor
    meta: SessionMeta
    context: C
    outbox: tuple[OutboxEntry, ...] = ()
    shape: str = ""
    schema_version: int = 1

    def __repr__(self) -> str:
        """Return the fields without the application's state."""
        return f"SessionBody(cursor={self.cursor!r}, meta={self.meta!r}, {Hidden(self.context)!r})"


class Codec(Protocol[C]):
    """Converts session bodies to bytes and back.

    ``encode`` raises :class:`TypeError`, :class:`ValueError`, :class:`OverflowError` or
    :class:`RecursionError` for a value that it cannot write. ``decode`` raises
    :class:`msgspec.DecodeError` for bytes that it cannot read. The store translates these into its
    own errors.
    """

    def encode(self, body: SessionBody[C]) -> bytes:
        """Return the bytes to store."""
        ...

    def decode(self, data: bytes) -> SessionBody[C]:
        """Return the body that ``encode`` wrote."""
        ...


CodecFactory = Callable[[Any], Codec[Any]]
"""Makes the codec of a context type. Each codec class here is such a factory. ``Any``, because a
checker cannot express that the argument determines the codec's type."""


class _BufferedCodec(Generic[C]):
    # msgspec's `encode` over-allocates, and the allocator keeps the rest: about 0.5 kB for a
    # session of 1 kB. A copy from a reused buffer has the exact size, and is faster.

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
        # Encoding may run Python code, for example of a time zone. That code may call this method
        # or let another thread run. So a call takes the buffer, in one line that is atomic.
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
    """Encodes bodies as JSON, by msgspec. The default. The result is readable in ``redis-cli``.

    JSON has only text keys, and neither NaN nor infinity. A store with ``verify``, the default,
    refuses a value that would be read as a different one.

    Pydantic models are encoded by their aliases, and validated when they are decoded. Other foreign
    types need hooks: ``codec=partial(JsonCodec, enc_hook=…, dec_hook=…)``.

    :param context_type: type of :attr:`Session.context`.
    :param enc_hook: function that converts a value of a foreign type to a supported one.
    :param dec_hook: function that converts a value back. It gets the type and the value.
    """

    __slots__ = ()

    def __init__(
        self,
        context_type: type[C],
        *,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
    ) -> None:
        decoder = msgspec.json.Decoder(_body_type(context_type), dec_hook=decoding_hook(dec_hook))
        super().__init__(msgspec.json.Encoder(enc_hook=encoding_hook(enc_hook)), decoder.decode)


@final
class MessagePackCodec(_BufferedCodec[C]):
    """Encodes bodies as MessagePack, by msgspec.

    MessagePack is smaller and faster than JSON, and bytes need no base64.

    :param context_type: type of :attr:`Session.context`.
    :param enc_hook: as in :class:`JsonCodec`.
    :param dec_hook: as in :class:`JsonCodec`.
    """

    __slots__ = ()

    def __init__(
        self,
        context_type: type[C],
        *,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
    ) -> None:
        decoder = msgspec.msgpack.Decoder(
            _body_type(context_type), dec_hook=decoding_hook(dec_hook)
        )
        super().__init__(msgspec.msgpack.Encoder(enc_hook=encoding_hook(enc_hook)), decoder.decode)


def _body_type(context_type: type[C]) -> type[SessionBody[C]]:
    # Type checkers do not support a type that is made from a value, so this casts.
    return cast("type[SessionBody[C]]", cast("Any", SessionBody)[context_type])


def context_classes(context_type: object) -> tuple[type, ...] | None:
    """Return the classes that a context of ``context_type`` is an instance of.

    A store refuses a context of another class before it writes. Otherwise the context would be
    encoded, and no later caller could read it.

    :returns: ``None`` if the classes cannot be determined.
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
        if plain or hasattr(cls, "__dataclass_fields__") or is_model(cls):
            return (cls,)
    return None
