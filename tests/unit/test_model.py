"""Tests of the model: tokens, scopes, outbox, lifetime, and the errors' codes and shapes."""

from __future__ import annotations

import hashlib
import inspect
import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greentic_session import (
    Cas,
    EmbeddedConfig,
    InvalidInputError,
    ManualClock,
    MemoryConfig,
    OutboxEntry,
    RedisConfig,
    ReplyScope,
    Session,
    SessionCursor,
    SessionMeta,
    SystemClock,
    TenantCtx,
    Versioned,
    errors,
    json_schema,
    new_session_key,
)
from greentic_session.errors import SessionError
from greentic_session.ordering import InboxLimits, LifecycleLimits

if TYPE_CHECKING:
    from collections.abc import Callable

INCARNATION = "0123456789abcdef0123456789abcdef"


def make(**fields: Any) -> Session[dict[str, Any]]:
    return Session(
        key=new_session_key(),
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta(tenant_id="acme"),
        **fields,
    )


# --- tokens ----------------------------------------------------------------------------------


@given(st.integers(1, 10**14 - 1), st.from_regex("[0-9a-f]{32}", fullmatch=True))
def test_a_token_round_trips_through_text_fit_for_an_etag(value: int, incarnation: str) -> None:
    cas = Cas(value=value, incarnation=incarnation)
    text = str(cas)
    assert Cas.parse(text) == cas
    # RFC 9110, 8.8.3: etagc is %x21 / %x23-7E / obs-text.
    assert all(char == "!" or "#" <= char <= "~" for char in text)


def test_the_token_of_an_absent_session() -> None:
    assert Cas.none() == Cas(value=0, incarnation="")
    assert str(Cas.none()) == "0"
    assert Cas.parse("0") == Cas.none()


@pytest.mark.parametrize("value", [0, 1, 10**14 - 1])
def test_a_token_is_read_as_an_if_match_header_carries_it(value: int) -> None:
    # RFC 9110, 8.8.3: entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE.
    cas = Cas(value=value, incarnation=INCARNATION) if value else Cas.none()
    assert [Cas.parse(f'"{cas}"'), Cas.parse(f'W/"{cas}"'), Cas.parse(str(cas))] == [cas] * 3


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "-", "0-", f"0-{INCARNATION}", f"01-{INCARNATION}", f"1-{INCARNATION} ",
        f"1-{INCARNATION.upper()}", f"1-{INCARNATION[:-1]}", f"-1-{INCARNATION}",
        f"\u0661-{INCARNATION}", f"1-{INCARNATION}\n", f'"1-{INCARNATION}', f'1-{INCARNATION}"',
        f'w/"1-{INCARNATION}"', f"W/1-{INCARNATION}", f'W/ "1-{INCARNATION}"', '""', 'W/"0', "*",
        f'""1-{INCARNATION}""', f'"1-{INCARNATION}", "1-{INCARNATION}"', f"{10**14}-{INCARNATION}",
        None, 1, b"0",
    ],
)  # fmt: skip
def test_text_that_is_no_token_is_refused(text: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Cas.parse(text)
    assert caught.value.field == "cas"


def test_tokens_have_no_order() -> None:
    with pytest.raises(TypeError):
        Cas.none() < Cas(value=1, incarnation=INCARNATION)  # type: ignore[operator] # noqa: B015


# --- structs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "struct", [TenantCtx, SessionMeta, SessionCursor, OutboxEntry, Session, Cas, ReplyScope]
)
def test_structs_are_frozen_and_keyword_only(struct: type[msgspec.Struct]) -> None:
    assert struct.__struct_config__.frozen
    with pytest.raises(TypeError, match="positional"):
        struct("x")


def test_versioned_unpacks_as_a_pair() -> None:
    written = make()
    session, cas = Versioned(written, Cas.none())
    assert (session, cas) == (written, Cas.none())


def test_a_random_key_is_a_uuid_and_never_the_same() -> None:
    made = {new_session_key() for _ in range(100)}
    assert len(made) == 100
    assert all(str(UUID(key)) == key for key in made)


def test_meta_of_a_caller_has_its_tenant_and_labels() -> None:
    ctx = TenantCtx(tenant_id="a", env="e", team_id="t", user_id="u", attributes={"x": "y"})
    meta = SessionMeta(tenant_id="a", env="e", team_id="t", user_id="u", labels={"l": 1})
    assert SessionMeta.of(ctx, labels={"l": 1}) == meta
    assert SessionMeta.of(ctx).labels == {}


def test_expires_at_is_the_last_write_plus_the_lifetime() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert make(updated_at=at).expires_at is None
    assert make(updated_at=at, ttl_secs=0.03).expires_at == at + timedelta(milliseconds=30)
    assert make(updated_at=at, ttl_secs=0.07).expires_at == at + timedelta(milliseconds=70)


def test_advance_is_a_new_step() -> None:
    moved = make().advance("next", "input")
    assert moved.cursor == SessionCursor(
        flow_id="f", node_id="next", wait_reason="input", outbox_seq=1
    )
    assert moved.advance("last").cursor.wait_reason is None


def test_a_session_without_a_key_gets_a_random_one() -> None:
    keys = {Session(meta=make().meta).key for _ in range(10)}
    assert len(keys) == 10
    assert all(str(UUID(key)) == key for key in keys)


def test_a_session_without_a_cursor_has_no_flow() -> None:
    session = Session(meta=make().meta)
    assert session.cursor == SessionCursor.none() == SessionCursor(flow_id="", node_id="")
    assert session.advance("menu").cursor == SessionCursor(flow_id="", node_id="menu", outbox_seq=1)
    # Workers of earlier releases cannot decode a cursor without these two fields.
    assert msgspec.json.encode(session.cursor) == b'{"flow_id":"","node_id":""}'


def test_another_state_leaves_the_other_fields_as_they_are() -> None:
    session, _ = make().advance("next").with_outbox(b"hello")
    other = session.with_context({"n": 1})
    assert other == msgspec.structs.replace(session, context={"n": 1})
    assert other.update_context(lambda state: {"n": state["n"] + 1}) == session.with_context(
        {"n": 2}
    )
    assert session.context == make().context


# --- outbox ----------------------------------------------------------------------------------


def test_an_effect_is_new_once_per_step() -> None:
    session, first = make().with_outbox(b"hello")
    again, repeated = session.with_outbox(b"hello")
    _, other = session.with_outbox(b"bye")
    later, in_next_step = session.advance("next").with_outbox(b"hello")
    assert (first, repeated, other, in_next_step) == (True, False, True, True)
    assert again is session
    assert [(entry.seq, entry.payload_sha256) for entry in later.outbox] == [
        (0, hashlib.sha256(b"hello").digest()),
        (1, hashlib.sha256(b"hello").digest()),
    ]
    assert later.outbox[0].created_at.tzinfo is UTC


def test_the_first_of_each_pair_wins() -> None:
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    first = OutboxEntry(seq=1, payload_sha256=bytes(32), created_at=early)
    repeat = OutboxEntry(seq=1, payload_sha256=bytes(32), created_at=late)
    other = OutboxEntry(seq=2, payload_sha256=bytes(32), created_at=late)
    assert make(outbox=(first, repeat, other, repeat)).dedupe_outbox().outbox == (first, other)
    single = make(outbox=(first, other))
    assert single.dedupe_outbox() is single


def test_the_newest_entries_are_kept() -> None:
    session = make()
    for number in range(128):
        session, _ = session.with_outbox(b"%d" % number)
        session = session.advance("next")
    assert [entry.seq for entry in session.outbox] == [*range(128)]
    session, is_new = session.with_outbox(b"128")
    assert is_new
    assert [entry.seq for entry in session.outbox] == [*range(1, 129)]
    # A known entry stays known, and drops nothing.
    again, is_new = session.with_outbox(b"128", max_outbox=1)
    assert (again, is_new) == (session, False)
    # An outbox that grew under an earlier version is cut at the next entry.
    grown = make(outbox=tuple(OutboxEntry.for_payload(seq, b"x") for seq in range(9000)))
    cut, _ = grown.with_outbox(b"y")
    assert [entry.seq for entry in cut.outbox] == [*range(9000 - 127, 9000), 0]
    assert len(make().with_outbox(b"a")[0].with_outbox(b"b", max_outbox=1)[0].outbox) == 1


def test_an_effect_that_is_older_than_the_outbox_is_new_again() -> None:
    session, _ = make().with_outbox(b"first", max_outbox=1)
    session, _ = session.with_outbox(b"second", max_outbox=1)
    _, is_new = session.with_outbox(b"first", max_outbox=1)
    assert is_new


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, None, "1"])
def test_a_bad_limit_of_the_outbox_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make().with_outbox(b"x", max_outbox=bad)
    assert caught.value.field == "max_outbox"


def test_entries_that_the_receiver_confirmed_are_dropped() -> None:
    session = make(outbox=tuple(OutboxEntry.for_payload(seq, b"x") for seq in (2, 1, 3, 2, 4)))
    assert [entry.seq for entry in session.without_outbox(2).outbox] == [3, 4]
    assert session.without_outbox(4).outbox == ()
    assert session.without_outbox(0) is session
    assert session.without_outbox(-1) is session
    wrong: Any
    for wrong in (None, "1", 1.0, True):
        with pytest.raises(InvalidInputError) as caught:
            session.without_outbox(wrong)
        assert caught.value.field == "through_seq"


# --- reply scopes ----------------------------------------------------------------------------


def test_the_scope_hash_joins_the_four_parts_with_newlines() -> None:
    scope = ReplyScope(conversation="c", thread="t", correlation="x")
    assert scope.scope_hash() == hashlib.sha256(b"c\nt\n\nx").hexdigest()
    assert ReplyScope(conversation="c").scope_hash() == hashlib.sha256(b"c\n\n\n").hexdigest()


def test_an_empty_part_of_a_scope_is_absent() -> None:
    assert (
        ReplyScope(conversation="c", thread="", reply_to="", correlation="").scope_hash()
        == ReplyScope(conversation="c").scope_hash()
    )


@pytest.mark.parametrize("field", ["thread", "reply_to", "correlation"])
def test_scopes_whose_parts_are_empty_or_absent_are_equal(field: str) -> None:
    empty, absent = ReplyScope(conversation="c", **{field: ""}), ReplyScope(conversation="c")
    assert empty == absent
    assert hash(empty) == hash(absent)
    assert {empty: 1} == {absent: 1}
    assert getattr(empty, field) is None
    assert msgspec.json.encode(empty) == msgspec.json.encode(absent)
    # Forms of earlier versions: a stored one with the empty part, and a pickle.
    stored = {"conversation": "c", field: ""}
    assert hash(msgspec.convert(stored, ReplyScope)) == hash(absent)
    assert msgspec.json.decode(msgspec.json.encode(stored), type=ReplyScope) == absent
    other = pickle.dumps(ReplyScope(conversation="c", **{field: "?"}), protocol=2)
    earlier = other.replace(b"X\x01\0\0\0?", b"X\0\0\0\0")
    assert earlier != other
    for pickled in (earlier, pickle.dumps(empty)):
        again = pickle.loads(pickled)  # noqa: S301 - made just above
        assert again == absent
        assert hash(again) == hash(absent)
    changed = msgspec.structs.replace(ReplyScope(conversation="c", **{field: "x"}), **{field: ""})
    assert changed == absent


@pytest.mark.parametrize("field", ["conversation", "thread", "reply_to", "correlation"])
@pytest.mark.parametrize("bad", ["a\nb", "\x00", "\x7f", "\x85", "\ud800", "x" * 1025, 5])
def test_a_bad_part_of_a_scope_is_named(field: str, bad: Any) -> None:
    parts = {"conversation": "c"} | {field: bad}
    with pytest.raises(InvalidInputError) as caught:
        ReplyScope(**parts).scope_hash()
    assert caught.value.field == field


def test_a_scope_without_a_conversation_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="conversation"):
        ReplyScope(conversation="").scope_hash()


# --- durations ---------------------------------------------------------------------------------


def test_a_life_given_as_a_timedelta_ends_when_it_should() -> None:
    now = datetime(2024, 2, 29, tzinfo=UTC)
    day = timedelta(days=1)
    assert make(ttl_secs=day, updated_at=now).expires_at == now + day
    assert make(ttl_secs=timedelta(0), updated_at=now).expires_at is None


@pytest.mark.parametrize(
    ("struct", "given"),
    [
        (MemoryConfig, {"sweep_interval_secs": 0.5}),
        (RedisConfig, {"deadline_secs": 0.5}),
        (EmbeddedConfig, {"path": "/x", "deadline_secs": 0.5, "start_secs": 60}),
        (InboxLimits, {"events_ttl_secs": 60, "dead_ttl_secs": 0.5, "early_ttl_secs": 1}),
        (LifecycleLimits, {"duration_secs": 60, "idle_secs": 0.5, "stalled_secs": None}),
    ],
)
def test_settings_in_seconds_take_a_timedelta(
    struct: Callable[..., object], given: dict[str, Any]
) -> None:
    by_timedelta = {
        name: timedelta(seconds=value) if isinstance(value, (int, float)) else value
        for name, value in given.items()
    }
    assert struct(**by_timedelta) == struct(**given)


def test_a_clock_advances_by_a_timedelta() -> None:
    clock = ManualClock(1000)
    clock.advance(timedelta(milliseconds=30))
    assert clock.now_ms() == 1030
    with pytest.raises(InvalidInputError, match="secs"):
        clock.advance(timedelta(seconds=-1))


# --- clocks ----------------------------------------------------------------------------------


def test_clocks_give_milliseconds_since_the_epoch() -> None:
    clock = ManualClock(1000)
    clock.advance(0.03)
    assert clock.now_ms() == 1030
    clock.set_ms(5)
    assert clock.now_ms() == 5
    with pytest.raises(InvalidInputError, match="secs"):
        clock.advance(-1)
    around = datetime.now(UTC).timestamp() * 1000
    assert abs(SystemClock().now_ms() - around) < 60_000


# --- errors ----------------------------------------------------------------------------------

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERY: dict[str, tuple[SessionError, str]] = {
    "InvalidInputError": (errors.InvalidInputError("f", "r"), "invalid_input"),
    "PayloadTooLargeError": (errors.PayloadTooLargeError(9, 8), "invalid_input"),
    "SessionNotFoundError": (errors.SessionNotFoundError("k"), "not_found"),
    "SessionExistsError": (errors.SessionExistsError("k"), "conflict"),
    "CasConflictError": (errors.CasConflictError("k", Cas.none(), Cas.none()), "conflict"),
    "TenantMismatchError": (errors.TenantMismatchError("k"), "permission_denied"),
    "AmbiguousKeyError": (errors.AmbiguousKeyError("k"), "conflict"),
    "AmbiguousWaitError": (errors.AmbiguousWaitError(2), "conflict"),
    "WaitNotFoundError": (errors.WaitNotFoundError(), "not_found"),
    "WaitClaimedError": (errors.WaitClaimedError(NOW), "conflict"),
    "DuplicateEventError": (errors.DuplicateEventError("e"), "conflict"),
    "LeaseLostError": (errors.LeaseLostError(), "conflict"),
    "MemberExistsError": (errors.MemberExistsError("w", NOW), "conflict"),
    "LockHeldError": (errors.LockHeldError("k", NOW), "conflict"),
    "InboxFullError": (errors.InboxFullError(9), "rate_limited"),
    "DispatcherFullError": (errors.DispatcherFullError("key"), "rate_limited"),
    "DispatcherClosedError": (errors.DispatcherClosedError(), "unavailable"),
    "DecodeError": (errors.DecodeError("k", "r"), "internal"),
    "SchemaVersionError": (errors.SchemaVersionError("k", "r"), "conflict"),
    "StoreUnavailableError": (errors.StoreUnavailableError("r", code="timeout"), "timeout"),
    "StoreFullError": (errors.StoreFullError(), "unavailable"),
    "OutcomeUnknownError": (errors.OutcomeUnknownError("r"), "timeout"),
    "DurabilityError": (errors.DurabilityError(0, 1), "unavailable"),
    "SessionError": (errors.SessionError("m"), "internal"),
}


def test_every_error_is_listed() -> None:
    classes = {name for name, cls in vars(errors).items() if inspect.isclass(cls)}
    assert classes == set(EVERY)
    for name in EVERY:
        assert f"{name} " in f"{errors.__doc__}".replace("\n", " "), "drawn in the tree"


@pytest.mark.parametrize("name", EVERY)
def test_an_error_has_its_code_and_survives_pickling(name: str) -> None:
    error, code = EVERY[name]
    assert isinstance(error, SessionError)
    assert error.code == code
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), vars(copy), copy.code) == (
        type(error),
        str(error),
        vars(error),
        code,
    )


def test_errors_are_what_the_language_calls_them() -> None:
    assert issubclass(errors.InvalidInputError, ValueError)
    assert issubclass(errors.PayloadTooLargeError, errors.InvalidInputError)
    assert issubclass(errors.SessionNotFoundError, LookupError)
    assert issubclass(errors.WaitNotFoundError, LookupError)
    assert issubclass(errors.StoreFullError, errors.StoreUnavailableError)


# --- schema ----------------------------------------------------------------------------------


class Address(msgspec.Struct, frozen=True):
    city: str


class Profile(msgspec.Struct, frozen=True):
    name: str
    address: Address | None = None


def test_the_schema_holds_every_stored_struct_with_the_context_in_place() -> None:
    schema = json_schema(Profile)
    definitions = schema["$defs"]
    body = definitions["SessionBody"]
    assert body["properties"]["context"] == {"$ref": "#/$defs/Profile"}
    assert {"$ref": "#/$defs/Address"} in definitions["Profile"]["properties"]["address"]["anyOf"]
    for name in ("SessionMeta", "SessionCursor", "OutboxEntry", "ReplyScope", "TenantCtx", "Cas"):
        assert definitions[name]["type"] == "object"
    referenced = set(_references(schema))
    assert referenced <= {f"#/$defs/{name}" for name in definitions}
    assert json_schema()["$defs"]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if "$ref" in node else []
        return found + [ref for value in node.values() for ref in _references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in _references(value)]
    return []


def test_a_type_without_a_schema_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="context_type"):
        json_schema(dict[bytes | str, int] | list[int] | set)
