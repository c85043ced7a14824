"""Tests of key names in Redis: unique per owner, unforgeable, and parseable."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greentic_session import DecodeError
from greentic_session._core.tenancy import owner_of
from greentic_session.model import SessionMeta
from greentic_session.redis.key_names import KeyNames

NAMES = KeyNames("greentic:session")

identifier = st.one_of(
    st.sampled_from(["lookup", "waits", "-", ".", "a", "A"]),
    st.from_regex(r"[A-Za-z0-9._-]{1,6}", fullmatch=True),
)
team = st.none() | identifier
hostile = st.text(alphabet="ab:{}%-/*?[]\\ \u00e9\U0001f600", min_size=1, max_size=6)
user = st.none() | hostile.filter(str.isprintable)
key = hostile
Whose = tuple[str, str, str | None, str | None, str]
whose = st.tuples(identifier, identifier, team, user, key)


def _names(who: Whose) -> tuple[str, str, str]:
    """Return the stored parts that separate one (env, tenant, team, user, key) from another."""
    env, tenant, team_id, user_id, session_key = who
    meta = SessionMeta(env=env, tenant_id=tenant, team_id=team_id, user_id=user_id)
    whose = owner_of(meta)
    waits = NAMES.wait_index(env, tenant, team_id, user_id) if user_id is not None else ""
    return NAMES.record(whose.scope, session_key), whose.owner, waits


@given(st.lists(whose, min_size=2, max_size=10, unique=True))
def test_no_two_tuples_share_a_name(several: list[Whose]) -> None:
    addresses = {(who[0], who[1], who[4]): _names(who)[0] for who in several}
    assert len(set(addresses.values())) == len(addresses)
    owners = {who[2:4]: _names(who)[1] for who in several}
    assert len(set(owners.values())) == len(owners)
    waiting = {who[:4]: _names(who)[2] for who in several if who[3] is not None}
    assert len(set(waiting.values())) == len(waiting)
    kinds = [set(addresses.values()), set(waiting.values())]
    kinds.append({NAMES.lookup(who[4]) for who in several})
    kinds += [{NAMES.events(name) for name in kind} for kind in kinds[:2]]
    kinds += [{NAMES.affinity(who[4])[part] for who in several} for part in range(4)]
    assert len(set.union(*kinds)) == sum(map(len, kinds))


@given(whose)
def test_a_name_is_printable_ascii_with_one_hash_tag(who: Whose) -> None:
    record, _, waits = _names(who)
    for name in filter(None, (record, NAMES.lookup(who[4]), waits)):
        assert name.isascii()
        assert name.isprintable()
        assert re.fullmatch(r"[^{}]+\{[^{}]+\}", name)


@given(whose)
def test_record_and_lookup_share_a_slot_and_the_key_is_read_back(who: Whose) -> None:
    env, tenant, _, _, session_key = who
    record = NAMES.record(f"{env}/{tenant}", session_key)
    tag = record[record.index("{") :]
    assert NAMES.lookup(session_key).endswith(tag)
    assert NAMES.events(record) == f"{record}:events"  # its hash tag is the record's
    assert NAMES.key_of(f"{env}/{tenant}", record.encode()) == session_key


@given(identifier, identifier, hostile, hostile)
def test_a_waits_name_differs_for_an_absent_team_and_every_named_one(
    env: str, tenant: str, first: str, second: str
) -> None:
    absent = NAMES.wait_index(env, tenant, None, first)
    assert absent != NAMES.wait_index(env, tenant, "-", first)
    assert (absent == NAMES.wait_index(env, tenant, None, second)) == (first == second)


def test_the_pattern_matches_no_other_scope() -> None:
    # Escaping leaves no character of MATCH patterns, so the only `*` is ours.
    assert NAMES.pattern("default/acme") == "greentic:session:default:acme:{*}"
    assert not NAMES.events(NAMES.record("default/acme", "k")).endswith("}")
    assert not set("*?[]\\") & set(NAMES.record("e/t", "*?[]\\"))


@pytest.mark.parametrize(
    "name", [b"greentic:session:e:t:{%zz}", b"x", b"greentic:session:e:t:{\xff}"]
)
def test_a_name_of_foreign_making_is_refused(name: bytes) -> None:
    with pytest.raises(DecodeError):
        NAMES.key_of("e/t", name)
