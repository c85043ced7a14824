"""The public surface as text, and one sample of each public error and struct.

``python -m tests.support.public_api`` rewrites the golden list, ``tests/vectors/public_api.txt``.
"""

from __future__ import annotations

import importlib
import inspect
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

import greentic_session as g
from greentic_session import ordering as o

VECTORS: Final = Path(__file__).parent.parent / "vectors"
GOLDEN: Final = VECTORS / "public_api.txt"
PICKLES: Final = VECTORS / "pickles.json"

MODULES: Final = (
    "greentic_session",
    "greentic_session.clock",
    "greentic_session.codec",
    "greentic_session.config",
    "greentic_session.embedded",
    "greentic_session.errors",
    "greentic_session.keys",
    "greentic_session.memory",
    "greentic_session.model",
    "greentic_session.flows",
    "greentic_session.ordering",
    "greentic_session.redis",
    "greentic_session.schema",
    "greentic_session.statistics",
    "greentic_session.testing.containers",
    "greentic_session.testing.contract",
    "greentic_session.testing.engine",
    "greentic_session.testing.fixtures",
    "greentic_session.testing.harness",
    "greentic_session.testing.history",
    "greentic_session.testing.image",
    "greentic_session.testing.ladder",
    "greentic_session.testing.linearizability",
    "greentic_session.testing.planting",
    "greentic_session.testing.proxy",
    "greentic_session.testing.servers",
    "greentic_session.testing.topologies",
    "greentic_session.testing.version_order",
    "greentic_session.waits",
    "greentic_session.waits.transitions",
    "greentic_session.web",
    "greentic_session.web.fastapi",
    "greentic_session.web.litestar",
    "greentic_session.web.starlette",
)
"""Modules whose import path must not change."""

MADE_BY_A_SERVICE: Final = (
    g.Claim,
    o.InboxTurn,
    o.LifecycleWork,
    o.Membership,
    o.SessionLease,
)
"""Classes that users get from the library. Their constructors are private."""


def surface() -> str:
    """Return one line per public name, and an indented line per public member of a class."""
    lines: list[str] = []
    for path in MODULES:
        module = importlib.import_module(path)
        lines.append(path)
        for name in sorted(module.__all__):
            lines += _lines_of(f"  {name}", getattr(module, name))
    return "\n".join(lines) + "\n"


def _lines_of(head: str, value: object) -> list[str]:
    if inspect.isclass(value):
        if issubclass(value, msgspec.Struct):
            fields = ", ".join(value.__struct_fields__)
            lines = [f"{head}: struct({fields})"]
        elif issubclass(value, tuple):
            lines = [f"{head}: tuple({', '.join(vars(value)['_fields'])})"]
        else:
            lines = [f"{head}: class{_signature(value)}"]
        return lines + [
            f"    {name}{_member(member)}"
            for name, member in _members_of(value)
            if not name.startswith("_")
        ]
    if inspect.isroutine(value):
        return [f"{head}{_signature(value)}"]
    return [head]


def _members_of(cls: type[Any]) -> list[tuple[str, object]]:
    """Return the members that the class and its own bases in this project define, nearest first."""
    found: dict[str, object] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("greentic_session"):
            for name, member in vars(base).items():
                found.setdefault(name, member)
    # A test class is inherited. Its tests are not called, so their list may grow.
    return sorted(
        (name, member)
        for name, member in found.items()
        if not name.startswith("test_") and not inspect.ismemberdescriptor(member)
    )


def _member(member: object) -> str:
    if isinstance(member, property):
        return ": property"
    if isinstance(member, classmethod | staticmethod):
        return f"{_signature(member.__func__)}: {type(member).__name__}"
    return _signature(member) if inspect.isroutine(member) else ""


def _signature(value: Any) -> str:
    """Return names, kinds and defaults of the parameters, without annotations."""
    if value in MADE_BY_A_SERVICE:
        return "(...)"
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    plain = [
        parameter.replace(annotation=parameter.empty, default=_Default.of(parameter))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


class _Default:
    """A default value for the list: a constant by its ``repr``, another object as ``...``."""

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> Any:
        value = parameter.default
        if value is parameter.empty:
            return value
        if isinstance(value, type):
            return cls(value.__name__)
        return cls(repr(value) if isinstance(value, str | int | float | tuple | None) else "...")

    def __repr__(self) -> str:
        return self._text


_TIME: Final = datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)
_KEY: Final = g.SessionKey("k")
_CTX: Final = g.TenantCtx(
    tenant_id="acme", env="prod", team_id="red", user_id="ann", attributes={"a": "b"}
)
_CAS: Final = g.Cas(value=3, incarnation="0" * 31 + "1")


def _unordered(extractor: o.SessionKeyExtractor) -> None:
    """Return no key for a message."""


def samples() -> dict[str, Any]:
    """Return an instance of each public error and struct, by the name it is exported under."""
    owner = g.SessionMeta.of(_CTX, labels={"channel": ["a", 1]})
    session: g.Session[dict[str, Any]] = g.Session(
        key=_KEY,
        cursor=g.SessionCursor(
            flow_id="f", node_id="n", pack_id="p", wait_reason="w", outbox_seq=2
        ),
        meta=owner,
        context={"step": 1},
        outbox=(g.OutboxEntry(seq=1, payload_sha256=b"s" * 32, created_at=_TIME),),
        ttl_secs=60.5,
        id=g.SessionId(UUID(int=7)),
        updated_at=_TIME,
    )
    tls = g.TlsConfig(ca_file="ca", cert_file="cert", key_file="key", verify=False)
    sentinel = g.SentinelConfig(addresses=(("h", 1),), master_name="m", username="u", password="p")
    message: dict[str, Any] = {"ctx": _CTX, "event_id": "e", "payload": b"x", "admitted_at": _TIME}
    structs: list[Any] = [
        _CTX,
        owner,
        session,
        session.cursor,
        session.outbox[0],
        _CAS,
        g.Versioned(session, _CAS),
        g.ReplyScope(conversation="c", thread="t", reply_to="r", correlation="x"),
        g.SessionBody(cursor=session.cursor, meta=owner, context={"step": 1}),
        g.StoreStatistics(backend="memory", sessions=4),
        g.MemoryConfig(max_payload_bytes=9, verify=False, sweep_interval_secs=2.0),
        g.RedisConfig(host="h", tls=tls, namespace="n", acks=1),
        g.EmbeddedConfig(path="/p", fsync="no"),
        tls,
        sentinel,
        o.InboxLimits(mail=5),
        o.InboxDepth(sessions=2, due=1),
        o.InboxStatistics(turns=2, dropped_dead_letters=1),
        o.Admitted(is_new=True, waiting=1, worker="w"),
        o.Mail(**message, attempt=2),
        o.DeadLetter(**message, key=_KEY, died_at=_TIME, attempts=5),
        o.LockHolder(name="w", fence=3, until=_TIME),
        o.Member(worker="w", fence=3, lease_until=_TIME),
        o.Placement(worker="w", pinned=True, expires_at=_TIME),
        o.DispatcherStatistics(**dict.fromkeys(o.DispatcherStatistics.__struct_fields__, 1)),
        o.LifecycleLimits(messages=5),
        o.LifecycleHooks(),
        o.LifecycleMetrics(
            live=1,
            started=2,
            messages=3,
            messages_per_sec=4.5,
            closed={"idle": 1},
            due=1,
            stalled_ever=0,
        ),
        o.SessionMetrics(
            key=_KEY,
            age_secs=1.5,
            idle_secs=0.0,
            messages=2,
            messages_per_sec=3.5,
            in_hand=1,
            is_stalled=False,
            closed="idle",
        ),
        o.NoOrderingStrategy(),
        o.SingleFieldStrategy("a", "prefix"),
        o.CompositeKeyStrategy(["a", "b"], "/"),
        o.FallbackStrategy([o.SingleFieldStrategy("a")]),
        o.TimePartitionedStrategy(o.SingleFieldStrategy("a"), hours=4),
        o.DynamicStrategy(_unordered),
        o.CustomStrategy(_unordered),
    ]
    structs.append(g.UnreadableSession(key=_KEY, error=g.DecodeError("k", "reason")))
    found = {type(value).__name__: value for value in structs}
    return found | _errors()


def _errors() -> dict[str, g.SessionError]:
    """Return an instance of each public error."""
    given = [
        g.SessionError("m", code="rate_limited"),
        g.InvalidInputError("field", "reason"),
        g.PayloadTooLargeError(2, 1),
        g.SessionNotFoundError("k"),
        g.SessionExistsError("k"),
        g.SessionEndedError(),
        g.SessionConflictError(("theme",)),
        g.SessionRevokedError(),
        g.SessionLimitError(3),
        g.ReauthenticationRequiredError(),
        g.CasConflictError("k", _CAS, g.Cas.none()),
        g.TenantMismatchError("k"),
        g.AmbiguousKeyError("k"),
        g.AmbiguousWaitError(2),
        g.WaitNotFoundError(),
        g.WaitClaimedError(_TIME),
        g.DuplicateEventError("e"),
        g.LeaseLostError("reason"),
        g.InboxFullError(3),
        g.LockHeldError("k", _TIME),
        g.MemberExistsError("w", _TIME),
        g.DispatcherFullError("total"),
        g.DispatcherClosedError(),
        g.DecodeError("k", "reason"),
        g.SchemaVersionError("k", "reason"),
        g.StoreUnavailableError("reason", code="timeout"),
        g.StoreFullError(),
        g.OutcomeUnknownError("reason"),
        g.DurabilityError(0, 1),
    ]
    return {type(error).__name__: error for error in given}


if __name__ == "__main__":
    GOLDEN.write_text(surface(), "utf-8")
