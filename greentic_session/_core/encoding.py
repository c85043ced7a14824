"""The encoder of sessions, which also decodes stored records.

It makes every check that a session must pass before any I/O. So each stored session can be decoded.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, cast, final, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec.structs import replace

from .._validation import check_key, ttl_to_ms
from ..abc.records import EncodedSession, Record
from ..codec import Codec, CodecFactory, JsonCodec, SessionBody, context_classes
from ..errors import DecodeError, InvalidInputError, PayloadTooLargeError
from ..model import (
    MAX_CAS_VALUE,
    C,
    Cas,
    OutboxEntry,
    Session,
    SessionCursor,
    SessionId,
    SessionKey,
    SessionMeta,
    UnknownFields,
    Versioned,
    distinct_entries,
)
from . import tenancy
from .evolution import KNOWN_CODECS, Evolution, UpgradeError
from .labels import NOT_COMPARED, labels_of
from .nesting import MAX_DEPTH, TOO_DEEP, is_surely_flat, is_too_deep
from .survival import first_loss, has_open_parts, is_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.backends import OnUnknown
    from .evolution import Upgrades

__all__ = ["SessionEncoder", "as_versioned", "check_token", "with_ttl"]


@final
class SessionEncoder(Generic[C]):
    """Checks, encodes and decodes the sessions of one store.

    :param context_type: the type of :attr:`Session.context`.
    :param codec: the function that makes the codec of that type.
    :param max_payload_bytes: limit on the size of one encoded session, in bytes.
    :param verify: whether to check, before a write, that a read returns the same session. The check
        decodes the body, unless a codec of this library encoded a plain dict. It compares labels
        and parts of any type.
    :param unknown_fields: as in :class:`AsyncSessionStore`.
    :param schema_version: as in :class:`AsyncSessionStore`.
    :param upgrades: as in :class:`AsyncSessionStore`.
    :param indexed_labels: names of the labels whose texts an encoded session carries.
    :raises InvalidInputError: the codec cannot handle ``context_type``.
    """

    def __init__(
        self,
        context_type: type[C],
        codec: CodecFactory,
        max_payload_bytes: int,
        *,
        verify: bool,
        unknown_fields: OnUnknown = "keep",
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
        indexed_labels: tuple[str, ...] = (),
    ) -> None:
        try:
            made: Codec[C] = codec(context_type)
        except (TypeError, NameError) as error:
            raise InvalidInputError("context_type", str(error)) from error
        self._encode: Final = made.encode
        self._decode: Final = made.decode
        self._verify: Final = verify
        self._indexed_labels: Final = indexed_labels
        self._takes_raw: Final = not _is_of_anything(context_type)
        self._is_json: Final = isinstance(cast("object", made), JsonCodec)
        self._is_known: Final = isinstance(cast("object", made), KNOWN_CODECS)
        # The codecs of the library can decode every plain dict that they encode.
        self._takes_plain: Final = self._is_known and _has_text_keys(context_type)
        self._is_open: Final = not self._takes_raw or has_open_parts(context_type)
        # A nesting level takes two bytes in JSON, and at least one byte in any other codec.
        self._flat_bytes: Final = MAX_DEPTH * 2 if self._is_json else MAX_DEPTH
        self._context_classes: Final = context_classes(context_type)
        self._max_payload_bytes: Final = max_payload_bytes
        self._evolution: Final = Evolution(
            context_type,
            codec,
            made,
            unknown_fields=unknown_fields,
            schema_version=schema_version,
            upgrades=upgrades,
        )
        self._shape: Final = self._evolution.shape
        self._version: Final = self._evolution.version
        self._checked_version: Final = self._evolution.checked_version

    def encode(self, session: Session[C], *, read_back: bool = True) -> EncodedSession:
        """Return a session encoded for a write.

        The codec writes a :class:`msgspec.Raw` unchanged, and it may hold no value or several. So
        it is refused in two places: as a direct value of a context that is a dict of any values,
        and at any depth in the dicts and lists of ``labels``. Deeper parts of a context, and
        contexts of other types, are not checked.

        :param session: the session.
        :param read_back: whether the encoder's ``verify`` applies.
        :raises InvalidInputError: a field is invalid. The error names it.
        :raises PayloadTooLargeError: the encoded session is larger than the limit.
        :raises SchemaVersionError: the write would lose fields that the type does not know.
        """
        # A struct does not check its fields when it is created, so they may hold any value.
        if type(session) is not Session and not isinstance(cast("object", session), Session):
            raise InvalidInputError("session", f"expected Session, got {type(session).__name__}")
        key, meta, cursor, context = session.key, session.meta, session.cursor, session.context
        key = check_key(key)
        if type(meta) is not SessionMeta:
            raise InvalidInputError("meta", f"expected SessionMeta, got {type(meta).__name__}")
        owner = tenancy.owner_of(meta)
        labels: object = meta.labels
        if type(labels) is not dict:
            raise InvalidInputError("labels", f"expected a dict, got {type(labels).__name__}")
        for name in cast("dict[object, object]", labels):
            if type(name) is not str:
                raise InvalidInputError("labels", "a name is not text")
        _check_cursor(cursor)
        outbox = _fitting_outbox(session.outbox)
        classes = self._context_classes
        if classes is not None and not isinstance(context, classes):
            raise InvalidInputError(
                "context", f"expected {_names(classes)}, got {type(context).__name__}"
            )
        ttl_ms = ttl_to_ms(session.ttl_secs)
        names = self._indexed_labels
        texts = labels_of(names, meta.labels) if names else NOT_COMPARED
        # The error of a codec may hold or quote parts of the session. So this method and those
        # below raise outside the handler, and no payload leaks through `__context__`.
        data, failure, version = b"", "", self._checked_version
        body = SessionBody(
            cursor=cursor,
            meta=meta,
            context=context,
            outbox=outbox,
            shape=self._shape,
            schema_version=self._version,
        )
        try:
            if session.unknown is msgspec.UNSET:
                data = self._encode(body)
            else:
                data, version = self._evolution.write(key, body, session.unknown)
        except InvalidInputError:  # which is a ValueError
            raise
        except _ENCODE_ERRORS as error:
            failure = _encode_failure(error)
        if failure:
            self._check_depth(session)  # its error names the field, the same on each Python
            raise InvalidInputError("session", failure)
        if len(data) > self._max_payload_bytes:
            raise PayloadTooLargeError(len(data), self._max_payload_bytes)
        if (
            read_back
            and self._verify
            and self._takes_plain
            and is_plain(context)
            and (not labels or is_plain(cast("object", labels)))
        ):
            return EncodedSession(owner.scope, key, owner.owner, ttl_ms, data, version, texts)
        self._check_raw(session)
        if (
            len(data) > self._flat_bytes
            and (self._is_open or labels)
            and not (self._is_known and is_surely_flat(data, is_json=self._is_json))
        ):
            self._check_depth(session)
        if self._verify and read_back:
            self._read_back(data, session)
        return EncodedSession(owner.scope, key, owner.owner, ttl_ms, data, version, texts)

    def encode_with_body(
        self, session: Session[C], check: Callable[[EncodedSession], None] | None = None
    ) -> tuple[EncodedSession, SessionBody[C]]:
        """Return a session encoded for a write, and its body as a later read decodes it.

        The body is decoded once, whether or not the encoder's ``verify`` is set.

        :param check: a function that may refuse the session. It runs before the body is decoded.
        :raises InvalidInputError: as :meth:`encode`.
        :raises PayloadTooLargeError: as :meth:`encode`.
        :raises DecodeError: the body cannot be decoded. With ``verify``, that is an
            :class:`InvalidInputError`.
        """
        encoded = self.encode(session, read_back=False)
        if check is not None:
            check(encoded)
        if self._verify:
            return encoded, self._read_back(encoded.body, session)
        return encoded, self.decode_body(session.key, encoded.body)

    def context_bytes(self, context: C) -> bytes | None:
        """Return the bytes of a body with a context alone, to compare two states of it.

        :meth:`decode_body` returns the context again. There are no checks.

        :returns: ``None`` if the codec cannot encode the context. :meth:`encode` names the reason.
        """
        try:
            return self._encode(SessionBody(cursor=_NO_CURSOR, meta=_NO_META, context=context))
        except _ENCODE_ERRORS:
            return None

    def decode_body(self, key: SessionKey, data: bytes) -> SessionBody[C]:
        """Return the body in stored bytes.

        :raises DecodeError: the bytes do not fit the codec and the context type.
        """
        try:
            return self._decode(data)
        except _DECODE_ERRORS as error:
            failure = _decode_failure(error)
        raise DecodeError(key, failure)

    def decode(self, key: SessionKey, record: Record) -> Versioned[C]:
        """Return the session in a record, with its token.

        :raises DecodeError: as :meth:`decode_body`.
        """
        cas = Cas(value=record.value, incarnation=record.incarnation)
        body: SessionBody[C] | None = None
        unknown: UnknownFields | msgspec.UnsetType = msgspec.UNSET
        failure = ""
        try:
            body = self._decode(record.body)
        except _DECODE_ERRORS as error:
            failure = _decode_failure(error)
        if body is None:
            if self._checked_version < 2:  # no earlier version may fit after an upgrade
                raise DecodeError(key, failure)
            body, unknown = self._decode_other(key, record.body)
        elif body.shape != self._shape and not self._evolution.is_own(body):
            body, unknown = self._decode_other(key, record.body)
        try:
            return as_versioned(key, body, cas, record.ttl_ms, record.at_ms, unknown=unknown)
        except (msgspec.DecodeError, ValueError, OverflowError):
            raise DecodeError(key, "a field of the stored record is out of range") from None

    def _decode_other(
        self, key: SessionKey, data: bytes
    ) -> tuple[SessionBody[C], UnknownFields | msgspec.UnsetType]:
        try:
            return self._evolution.read(data)
        except UpgradeError as error:
            failure = str(error)
        except (*_DECODE_ERRORS, KeyError) as error:
            failure = _decode_failure(error)
        raise DecodeError(key, failure)

    def _check_raw(self, session: Session[C]) -> None:
        if not self._takes_raw and msgspec.Raw in map(
            type, cast("dict[Any, Any]", session.context).values()
        ):
            raise InvalidInputError("context", _RAW)
        labels = session.meta.labels
        if labels and _holds_raw(labels):  # they were encoded, so they are not recursive
            raise InvalidInputError("labels", _RAW)

    @staticmethod
    def _check_depth(session: Session[C]) -> None:
        if is_too_deep(session.context):
            raise InvalidInputError("context", TOO_DEEP)
        if is_too_deep(session.meta.labels):
            raise InvalidInputError("labels", TOO_DEEP)

    def _read_back(self, data: bytes, session: Session[C]) -> SessionBody[C]:
        body: SessionBody[C] | None = None
        failure = ""
        try:
            body = self._decode(data)
        except _DECODE_ERRORS as error:
            failure = _decode_failure(error)
        if body is None:
            raise InvalidInputError("session", f"cannot be decoded after encoding: {failure}")
        if session.meta.labels:
            _check_survival("labels", session.meta.labels, body.meta.labels)
        if self._is_open:
            _check_survival("context", session.context, body.context)
        return body


_new_versioned: Final[Callable[[type[Any], tuple[Session[Any], Cas]], Versioned[Any]]] = cast(
    "Any", tuple.__new__
)
"""Does the same as the constructor of a named tuple, in half the time."""
_uuid_of: Final = msgspec.json.Decoder(UUID).decode
"""Parses a quoted UUID, in a quarter of the time that :class:`UUID` takes."""
_NO_CURSOR: Final = SessionCursor(flow_id="", node_id="")
_NO_META: Final = SessionMeta(tenant_id="")
_RAW: Final = "holds a msgspec.Raw: expected decoded values"
_ENCODE_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError, AttributeError)
_DECODE_ERRORS: Final = (msgspec.DecodeError, TypeError, ValueError, OverflowError, RecursionError)


def as_versioned(
    key: SessionKey,
    body: SessionBody[C],
    cas: Cas,
    ttl_ms: int,
    at_ms: int,
    *,
    unknown: UnknownFields | msgspec.UnsetType,
) -> Versioned[C]:
    """Return the result of a read, from a decoded body and the other fields of the record.

    :param unknown: the fields that the body does not hold. After a write, those of the session.
    """
    session: Session[C] = Session(
        key=key,
        cursor=body.cursor,
        meta=body.meta,
        context=body.context,
        outbox=body.outbox,
        ttl_secs=ttl_ms / 1000,
        id=SessionId(_uuid_of(f'"{cas.incarnation}"')),
        updated_at=datetime.fromtimestamp(at_ms / 1000, UTC),
        unknown=unknown,
    )
    return _new_versioned(Versioned, (session, cas))


def with_ttl(encoded: EncodedSession, ttl: object) -> EncodedSession:
    """Return an encoded session with another lifetime.

    :param ttl: the lifetime, as :func:`ttl_to_ms` takes it.
    :raises InvalidInputError: naming ``ttl``.
    """
    ttl_ms = ttl_to_ms(ttl, "ttl")
    return replace(encoded, ttl_ms=ttl_ms)


def check_token(expected: object) -> None:
    """Check a token from a caller.

    :raises InvalidInputError: ``expected`` is not a valid token.
    """
    if isinstance(expected, Cas):
        value, incarnation = expected.value, expected.incarnation
        if (
            type(value) is int
            and type(incarnation) is str
            and incarnation.isascii()
            and (0 < value <= MAX_CAS_VALUE if incarnation else value == 0)
        ):
            return
    raise InvalidInputError("expected", "is not a token of this library")


def _check_survival(field: str, given: object, found: object) -> None:
    loss = first_loss(given, found, field)
    if loss is not None:
        raise InvalidInputError(field, f"would change when read back: {loss}")


def _check_cursor(cursor: object) -> None:
    if type(cursor) is not SessionCursor:
        raise InvalidInputError("cursor", f"expected SessionCursor, got {type(cursor).__name__}")
    if type(cursor.outbox_seq) is not int:
        raise InvalidInputError("cursor", "outbox_seq is not an int")
    if (
        type(cursor.flow_id) is not str
        or type(cursor.node_id) is not str
        or not (cursor.pack_id is None or type(cursor.pack_id) is str)
        or not (cursor.wait_reason is None or type(cursor.wait_reason) is str)
    ):
        raise InvalidInputError("cursor", "flow_id, node_id, pack_id or wait_reason is not text")


def _fitting_outbox(outbox: object) -> tuple[OutboxEntry, ...]:
    """Check an outbox, and return it without repeated entries."""
    if type(outbox) is not tuple:
        raise InvalidInputError("outbox", f"expected a tuple, got {type(outbox).__name__}")
    entries = cast("tuple[OutboxEntry, ...]", outbox)
    if not entries:
        return entries
    is_ascending, before = True, -math.inf
    for entry in entries:
        if type(entry) is not OutboxEntry:
            raise _unfit_entry()
        seq, digest, at = entry.seq, entry.payload_sha256, entry.created_at
        if type(seq) is not int or type(digest) is not bytes or len(digest) != 32:
            raise _unfit_entry()
        # The library's own times are in UTC, so this check is usually enough.
        if (type(at) is not datetime or at.tzinfo is not UTC) and not _is_aware(at):
            raise _unfit_entry()
        if seq <= before:
            is_ascending = False
        before = seq
    # Usually the entries ascend, and then none is repeated.
    return entries if is_ascending else distinct_entries(entries)


def _unfit_entry() -> InvalidInputError:
    return InvalidInputError(
        "outbox", "an entry is not an OutboxEntry of an int, 32 bytes and an aware time"
    )


def _is_aware(at: object) -> bool:
    return isinstance(at, datetime) and at.utcoffset() is not None


def _is_of_anything(context_type: object) -> bool:
    return context_type is dict or (
        get_origin(context_type) is dict and get_args(context_type)[1] in (Any, object)
    )


def _has_text_keys(context_type: object) -> bool:
    return context_type is dict or (
        _is_of_anything(context_type) and get_args(context_type)[0] is str
    )


def _holds_raw(value: object) -> bool:
    if type(value) is dict:
        return any(map(_holds_raw, cast("dict[object, object]", value).values()))
    if type(value) in (list, tuple):
        return any(map(_holds_raw, cast("list[object]", value)))
    return type(value) is msgspec.Raw


def _names(classes: tuple[type, ...]) -> str:
    return " or ".join(cls.__name__ for cls in classes)


def _encode_failure(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if isinstance(error, UnicodeError):
        return "holds text with a lone surrogate, which has no UTF-8 form"
    if isinstance(error, (OverflowError, ValueError)):
        return "holds a value out of range for the codec"
    if isinstance(error, AttributeError):
        return "lacks a required field"
    return f"cannot be encoded: {error}"


def _decode_failure(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the stored session is nested too deeply for the remaining stack"
    if isinstance(error, msgspec.ValidationError):
        _, found, path = str(error).rpartition(" - at `")
        where = f" at `{path}" if found else ""
        return f"the stored session does not fit the store's context_type{where}"
    return "the stored bytes are not of the store's codec"
