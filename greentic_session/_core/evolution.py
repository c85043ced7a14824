"""Reads and writes of sessions that another release of the application stored.

Every body has a digest of the type that encoded it. A body with the digest of the store's own type
needs nothing of this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, cast, final

import msgspec

from .._validation import require_int
from ..codec import JsonCodec, MessagePackCodec, SessionBody
from ..config.backends import check_on_unknown
from ..errors import InvalidInputError, SchemaVersionError
from ..model import C, SessionCursor, SessionMeta, UnknownFields
from .named_fields import Part, UnknownSearch, digest_of, merge_unknown, part_of

if TYPE_CHECKING:
    from ..codec import Codec, CodecFactory
    from ..config.backends import OnUnknown
    from ..model import SessionKey

__all__ = ["KNOWN_CODECS", "Evolution", "UpgradeError", "Upgrades"]

Upgrades = Mapping[int, Callable[[Any], Any]]
"""Functions by the version that they convert. ``Any``, because they convert JSON values."""
KNOWN_CODECS: Final = (JsonCodec, MessagePackCodec)
_MAX_VERSION: Final = 1_000_000
_MIXED: Final = "mixed"
"""Replaces the digest of a body that holds fields of another type."""
_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_version: Final = msgspec.json.Decoder(int).decode


class UpgradeError(ValueError):
    """An upgrade failed. Its message quotes no stored value."""


@final
class Evolution(Generic[C]):
    """The rules by which a store reads and writes the sessions of other releases.

    :param context_type: type of :attr:`Session.context`.
    :param factory: the codec factory of the store.
    :param codec: the codec that it made.
    :param unknown_fields: whether a write keeps unknown fields, or is refused.
    :param schema_version: version of the context type. ``None`` is a store without versions.
    :param upgrades: a function per earlier version that converts its JSON value to the next one.
    :ivar shape: digest of the type, which its bodies carry. Empty if it has no named fields.
    :ivar version: version that the store's bodies carry.
    :ivar checked_version: version that a record must not exceed for a write, 0 without a check.
    """

    def __init__(
        self,
        context_type: type[C],
        factory: CodecFactory,
        codec: Codec[C],
        *,
        unknown_fields: OnUnknown,
        schema_version: int | None,
        upgrades: Upgrades | None,
    ) -> None:
        check_on_unknown(unknown_fields)
        self._keeps: Final = unknown_fields == "keep"
        self.checked_version: Final = _check_version(schema_version)
        self.version: Final = self.checked_version or 1
        self._upgrades: Final = _check_upgrades(upgrades, self.version)
        self._factory: Final = factory
        self._encode: Final = codec.encode
        self._decode: Final = codec.decode
        self._is_json: Final = isinstance(cast("object", codec), JsonCodec)
        self._is_known: Final = isinstance(cast("object", codec), KNOWN_CODECS)
        self._root: Final = _root_of(context_type)
        has_names = self._root is not None and _has_names(self._root.names["context"])
        self.shape: Final = (
            digest_of(self._root, self.version)
            if self._root is not None and (has_names or self.checked_version)
            else ""
        )
        if self.checked_version and not self._is_known:
            _check_keeps_version(factory)

    def is_own(self, body: SessionBody[C]) -> bool:
        """Return whether a body needs no second look: a type of the same names encoded it."""
        # A codec of the application may ignore the digest. Then all its bodies lack it.
        return body.shape == self.shape or (
            not body.shape and not self._is_known and body.schema_version == self.version
        )

    def read(self, data: bytes) -> tuple[SessionBody[C], UnknownFields | msgspec.UnsetType]:
        """Return the body in stored bytes of another type or version, and what it does not hold.

        :raises msgspec.DecodeError: the bytes do not fit the codec and the context type. It may be
            another error of a codec.
        :raises UpgradeError: an upgrade failed.
        """
        fields, foreign = self._untyped(data)
        version = foreign.schema_version if fields is None else _version_in(fields)
        if version < self.version and self._upgrades:
            if fields is not None:
                state = self._upgraded(msgspec.json.decode(fields["context"]), version)
                fields["context"] = msgspec.Raw(_encoded(state))
                data = msgspec.json.encode(fields)
            else:
                state = self._upgraded(foreign.context, version)
                foreign = msgspec.structs.replace(foreign, context=state)
                data = self._factory(dict).encode(foreign)
        body = self._decode(data)
        unknown = self._unknown_of(data, body, foreign)
        newer = version if version > self.version else 0
        if not newer and unknown is msgspec.UNSET:
            return body, unknown
        known = UnknownFields() if isinstance(unknown, msgspec.UnsetType) else unknown
        return body, msgspec.structs.replace(known, schema_version=newer)

    def write(self, key: SessionKey, body: SessionBody[C], unknown: object) -> tuple[bytes, int]:
        """Return the bytes of a body with its unknown fields, and the version to check.

        :param body: the body with the digest and the version of the store.
        :param unknown: :attr:`Session.unknown`.
        :raises SchemaVersionError: the write would lose unknown fields, or the store refuses them.
        :raises InvalidInputError: ``unknown`` does not come from this library.
        """
        if not isinstance(unknown, UnknownFields):
            raise InvalidInputError(
                "unknown", f"expected UnknownFields, got {type(unknown).__name__}"
            )
        if unknown.unkept:
            raise SchemaVersionError(
                key,
                f"a write would lose fields that the store's type lacks: in {unknown.unkept}",
            )
        has_fields = bytes(unknown.fields) != b"{}"
        if has_fields and not self._is_json:
            raise SchemaVersionError(
                key,
                "a write would lose fields that the store's type lacks: only JsonCodec keeps them",
            )
        if not self._keeps and (has_fields or unknown.schema_version > self.version):
            raise SchemaVersionError(
                key, "the stored state is of a newer type: the store refuses unknown fields"
            )
        version = max(self.version, unknown.schema_version)
        # The body is of no single type, so every reader looks for unknown fields.
        data = self._encode(msgspec.structs.replace(body, shape=_MIXED, schema_version=version))
        if has_fields and self._root is not None:
            try:
                data = merge_unknown(self._root, data, unknown.fields)
            except msgspec.DecodeError:
                raise InvalidInputError("unknown", "is not of this library") from None
        return data, version if self.checked_version or unknown.schema_version else 0

    def _untyped(self, data: bytes) -> tuple[dict[str, msgspec.Raw] | None, SessionBody[Any]]:
        if self._is_json:
            return _decode_object(data), _NO_BODY
        return None, self._factory(dict).decode(data)

    def _upgraded(self, state: Any, version: int) -> Any:  # Any: JSON values
        for number in range(max(version, 1), self.version):
            upgrade = self._upgrades.get(number)
            if upgrade is None:
                continue
            failure = ""
            try:
                state = upgrade(state)
            except Exception as error:  # noqa: BLE001 - its message may quote the state
                failure = type(error).__name__
            if failure:
                raise UpgradeError(f"the upgrade from version {number} raised {failure}")
        return state

    def _unknown_of(
        self, data: bytes, body: SessionBody[C], foreign: SessionBody[Any]
    ) -> UnknownFields | msgspec.UnsetType:
        if self._root is None:
            return msgspec.UNSET
        search = UnknownSearch()
        again = self._encode(body)
        if self._is_json:
            fields = search.fields_of(self._root, data, msgspec.json.decode(again), "")
            if not fields and not search.unkept:
                return msgspec.UNSET
            return UnknownFields(
                fields=msgspec.Raw(msgspec.json.encode(fields)), unkept=search.unkept
            )
        read: Any = self._factory(dict).decode(again).context
        search.check(self._root.names["context"], foreign.context, read, "context")
        return UnknownFields(unkept=search.unkept) if search.unkept else msgspec.UNSET


_NO_BODY: Final[SessionBody[Any]] = SessionBody(
    cursor=SessionCursor(flow_id="", node_id=""),
    meta=SessionMeta(tenant_id=""),
    context={},
    schema_version=2,
)


def _check_version(version: int | None) -> int:
    if version is None:
        return 0
    require_int(version, "schema_version", 1, _MAX_VERSION)
    return version


def _check_upgrades(upgrades: object, version: int) -> Upgrades:
    if upgrades is None:
        return {}
    if not isinstance(upgrades, dict):
        raise InvalidInputError("upgrades", f"expected a dict, got {type(upgrades).__name__}")
    known = cast("dict[object, object]", upgrades)
    for number, upgrade in known.items():
        if type(number) is not int or not 1 <= number < version:
            raise InvalidInputError("upgrades", "a key is no version below schema_version")
        if not callable(upgrade) or inspect.iscoroutinefunction(upgrade):
            raise InvalidInputError("upgrades", "a value is no plain function")
    return cast("Upgrades", dict(known))


def _check_keeps_version(factory: CodecFactory) -> None:
    codec = factory(dict)
    if codec.decode(codec.encode(_NO_BODY)).schema_version != _NO_BODY.schema_version:
        raise InvalidInputError("codec", "does not store schema_version")


def _root_of(context_type: object) -> Part | None:
    try:
        return part_of(cast("Any", SessionBody)[context_type])
    except Exception:  # noqa: BLE001 - a codec of the application may know the type
        return None


def _has_names(part: Part) -> bool:
    seen: set[int] = set()
    left = [part]
    while left:
        part = left.pop()
        if part.kind in ("object", "array", "foreign"):
            return True
        if id(part) not in seen:
            seen.add(id(part))
            left += part.inner
    return False


def _version_in(fields: dict[str, msgspec.Raw]) -> int:
    stored = fields.get("schema_version")
    return 1 if stored is None else _decode_version(stored)


def _encoded(state: object) -> bytes:
    try:
        return msgspec.json.encode(state)
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    raise UpgradeError("an upgrade returned a value that is not JSON")
