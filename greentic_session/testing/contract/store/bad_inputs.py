"""Invalid sessions, owners, keys and lifetimes, which every store must refuse."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import msgspec

from ...._compat import override
from ...._validation import MAX_TTL_SECS
from ....model import OutboxEntry, Session, SessionMeta, TenantCtx
from ..samples import SECRET, AppState, evolve

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BAD_IDENTIFIERS",
    "BAD_KEYS",
    "BAD_LIVES",
    "BAD_SESSIONS",
    "BAD_USERS",
    "Bad",
    "bad_context",
    "bad_cursor",
    "bad_entry",
    "bad_meta",
]

# Any in these: values of every wrong type.


class Bad(NamedTuple):
    """An invalid change of a session, and the field that the refusal must name."""

    field: str
    spoil: Callable[[Session[Any]], Any]


@final
class _LikeAnArray:
    """A value without a truth value, as arrays are. Even a comparison with 0 gives no bool."""

    @override
    def __eq__(self, other: object) -> Any:
        return self

    @override
    def __hash__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        raise ValueError("of which element?")


@final
class _NoOffset(tzinfo):
    """A time zone without an offset. A time in it is naive (Python docs, "datetime")."""

    @override
    def utcoffset(self, _dt: datetime | None, /) -> timedelta | None:
        return None

    @override
    def dst(self, _dt: datetime | None, /) -> timedelta | None:
        return None

    @override
    def tzname(self, _dt: datetime | None, /) -> str | None:
        return None


def _instead(value: Any) -> Bad:
    def spoil(_base: Session[Any]) -> Any:
        return value

    return Bad("session", spoil)


def _with(field: str, value: Any) -> Bad:
    def spoil(base: Session[Any]) -> Session[Any]:
        return evolve(base, **{field: value})

    return Bad(field, spoil)


def bad_context(value: Any) -> Bad:
    """Return a context that is a dict but cannot be encoded."""

    def spoil(base: Session[Any]) -> Session[Any]:
        return evolve(base, context={"password": SECRET, "inner": value})

    return Bad("session", spoil)


def bad_meta(field: str, value: Any) -> Bad:
    """Return an owner with an invalid field."""

    def spoil(base: Session[Any]) -> Session[Any]:
        return evolve(base, meta=msgspec.structs.replace(base.meta, **{field: value}))

    return Bad(field, spoil)


def bad_cursor(field: str, value: Any) -> Bad:
    """Return a cursor with an invalid field."""

    def spoil(base: Session[Any]) -> Session[Any]:
        return evolve(base, cursor=msgspec.structs.replace(base.cursor, **{field: value}))

    return Bad("cursor", spoil)


def bad_entry(**fields: Any) -> Bad:
    """Return an outbox whose second entry has invalid fields."""
    good = OutboxEntry.for_payload(1, b"hello")
    return _with("outbox", (good, msgspec.structs.replace(good, **fields)))


def _endless() -> dict[str, Any]:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    return endless


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


_NOW: Final = datetime(2024, 2, 29, 12, tzinfo=UTC)
BAD_IDENTIFIERS: Final[dict[str, Any]] = {
    "empty": "",
    "too long": "x" * 129,
    "with a colon": f"{SECRET}:",
    "with a slash": f"{SECRET}/",
    "with a space": f"{SECRET} ",
    "with a line break": f"{SECRET}\n",
    "with a letter beyond ASCII": f"{SECRET}é",
    "with a digit beyond ASCII": f"{SECRET}\u0661",
    "with a brace": f"{SECRET}{{",
    "with a star": f"{SECRET}*",
    "with a NUL": f"{SECRET}\0",
    "of bytes": SECRET.encode(),
    "of a number": 7,
    "of a list": [SECRET],
}
BAD_USERS: Final[dict[str, Any]] = {
    "empty": "",
    "too long": "u" * 257,
    "with a line break": f"{SECRET}\n",
    "with a NUL": f"{SECRET}\0",
    "with a control of C1": f"{SECRET}\x85",
    "with a lone surrogate": f"{SECRET}\ud800",
    "of bytes": SECRET.encode(),
    "of a number": 7,
    "of a list": [SECRET],
}
BAD_KEYS: Final[dict[str, Any]] = {
    "empty": "",
    "too long": "k" * 513,
    "too long beyond ASCII": "😀" * 513,
    "with a line break": f"{SECRET}\n",
    "with a NUL": f"{SECRET}\0",
    "with DEL": f"{SECRET}\x7f",
    "with a control of C1": f"{SECRET}\x9f",
    "with a lone surrogate": f"{SECRET}\udfff",
    "none": None,
    "of bytes": SECRET.encode(),
    "of a number": 7,
    "of a list": [SECRET],
    "of a UUID": uuid.UUID(int=7),
}
BAD_LIVES: Final[dict[str, Any]] = {
    "negative": -1,
    "negative fraction": -0.001,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "minus infinite": float("-inf"),
    "true": True,
    "false": False,
    "text": "60",
    "none": None,
    "negative timedelta": timedelta(seconds=-60),
    "decimal": Decimal(60),
    "like an array": _LikeAnArray(),
    "below a millisecond": 0.0004,
    "least of all": 5e-324,
    "over the limit": MAX_TTL_SECS + 1,
    "huge": 1e300,
    "huge int": 10**400,
}

BAD_SESSIONS: Final[dict[str, Bad]] = {
    "session none": _instead(None),
    "session dict": _instead({"key": SECRET}),
    "session text": _instead(SECRET),
    "session meta": _instead(SessionMeta(tenant_id=SECRET)),
    "session class": _instead(Session),
    **{f"key {name}": _with("key", value) for name, value in BAD_KEYS.items()},
    **{f"ttl_secs {name}": _with("ttl_secs", value) for name, value in BAD_LIVES.items()},
    "meta none": _with("meta", None),
    "meta dict": _with("meta", {"tenant_id": SECRET}),
    "meta of a caller": _with("meta", TenantCtx(tenant_id="acme")),
    **{
        f"{field} {name}": bad_meta(field, value)
        for field in ("tenant_id", "env", "team_id")
        for name, value in BAD_IDENTIFIERS.items()
    },
    "tenant_id none": bad_meta("tenant_id", None),
    "env none": bad_meta("env", None),
    **{f"user_id {name}": bad_meta("user_id", value) for name, value in BAD_USERS.items()},
    "labels none": bad_meta("labels", None),
    "labels text": bad_meta("labels", SECRET),
    "labels pairs": bad_meta("labels", [("a", SECRET)]),
    "labels with a number as name": bad_meta("labels", {7: SECRET}),
    "labels with an object": Bad("session", bad_meta("labels", {"a": object()}).spoil),
    "cursor none": _with("cursor", None),
    "cursor dict": _with("cursor", {"flow_id": SECRET, "node_id": SECRET}),
    "cursor flow none": bad_cursor("flow_id", None),
    "cursor flow number": bad_cursor("flow_id", 7),
    "cursor flow bytes": bad_cursor("flow_id", SECRET.encode()),
    "cursor node none": bad_cursor("node_id", None),
    "cursor node list": bad_cursor("node_id", [SECRET]),
    "cursor pack number": bad_cursor("pack_id", 7),
    "cursor reason list": bad_cursor("wait_reason", [SECRET]),
    "cursor seq text": bad_cursor("outbox_seq", "7"),
    "cursor seq fraction": bad_cursor("outbox_seq", 1.5),
    "cursor seq none": bad_cursor("outbox_seq", None),
    "cursor seq true": bad_cursor("outbox_seq", True),
    "cursor flow lone surrogate": Bad("session", bad_cursor("flow_id", f"{SECRET}\ud800").spoil),
    "outbox list": _with("outbox", [OutboxEntry.for_payload(1, b"hello")]),
    "outbox none": _with("outbox", None),
    "outbox entry": _with("outbox", OutboxEntry.for_payload(1, b"hello")),
    "outbox of dicts": _with("outbox", ({"seq": 1},)),
    "outbox of none": _with("outbox", (OutboxEntry.for_payload(1, b"hello"), None)),
    "outbox seq text": bad_entry(seq="1"),
    "outbox seq fraction": bad_entry(seq=1.0),
    "outbox seq true": bad_entry(seq=True),
    "outbox seq none": bad_entry(seq=None),
    "outbox sha of 31 bytes": bad_entry(payload_sha256=b"x" * 31),
    "outbox sha of 33 bytes": bad_entry(payload_sha256=b"x" * 33),
    "outbox sha empty": bad_entry(payload_sha256=b""),
    "outbox sha text": bad_entry(payload_sha256="x" * 32),
    "outbox sha hex": bad_entry(payload_sha256=b"ab" * 32),
    "outbox sha array": bad_entry(payload_sha256=bytearray(32)),
    "outbox time naive": bad_entry(created_at=datetime(2024, 2, 29)),  # noqa: DTZ001 - the point
    "outbox time without an offset": bad_entry(created_at=_NOW.replace(tzinfo=_NoOffset())),
    "outbox time none": bad_entry(created_at=None),
    "outbox time text": bad_entry(created_at="2024-02-29T12:00:00Z"),
    "outbox time number": bad_entry(created_at=1_700_000_000),
    "context none": _with("context", None),
    "context list": _with("context", [SECRET]),
    "context text": _with("context", SECRET),
    "context struct": _with("context", AppState()),
    "context with an object": bad_context(object()),
    "context with a function": bad_context(len),
    "context with an error": bad_context(ValueError(SECRET)),
    "context with a class": bad_context(AppState),
    "context with a complex number": bad_context(1j),
    "context with a generator": bad_context(iter([1])),
    "context with a lone surrogate": bad_context(f"{SECRET}\ud800"),
    "context with a lone surrogate as key": bad_context({f"{SECRET}\ud800": 1}),
    "context with a tuple as key": bad_context({(1, SECRET): 1}),
    "context with an object as key": bad_context({object(): 1}),
    "context that holds itself": Bad("context", bad_context(_endless()).spoil),
    "context nested too deeply": Bad("context", bad_context(_deep()).spoil),
    "context with an int of 5000 digits": bad_context(10**5000),
}
