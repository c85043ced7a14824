"""Tests of session keys: published vectors, independent recomputation, and no collisions."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greentic_session import InvalidInputError, keys

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "keys.json").read_text("utf-8")
)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['function']}{v['arguments']}")
def test_names_for_the_published_parts_are_theirs(vector: dict[str, Any]) -> None:
    assert getattr(keys, vector["function"])(*vector["arguments"]) == vector["key"]


def test_every_function_has_a_vector() -> None:
    assert {vector["function"] for vector in VECTORS} == set(keys.__all__)


def test_the_fixed_formats_are_those_of_existing_deployments() -> None:
    assert keys.telegram_update_to_session_key("bot", "chat", "user") == _sha("tg:bot:chat:user")
    assert keys.webhook_to_session_key("src", "subject", "id") == _sha("wh:src:subject:id")
    assert keys.canonical_session_key("t", "p") == "t:p:conversation:user"
    assert keys.canonical_session_key("t", "p", "a", "u") == "t:p:a:u"


def test_parts_with_a_colon_are_length_prefixed() -> None:
    expected = "v2:2:tg,3:a:b,1:c,1:d,"
    assert keys.telegram_update_to_session_key("a:b", "c", "d") == _sha(expected)
    assert keys.canonical_session_key("t", "p", "é:", "u") == "v2:1:t,1:p,3:é:,1:u,"


def test_an_int_is_its_decimal_text() -> None:
    by_int = keys.telegram_update_to_session_key(1, -100, 3)
    assert by_int == keys.telegram_update_to_session_key("1", "-100", "3")


def test_an_empty_anchor_or_user_counts_as_absent() -> None:
    assert keys.canonical_session_key("t", "p", "", "") == keys.canonical_session_key("t", "p")


part = st.text(alphabet="ab:,0123", max_size=4)


@given(st.lists(st.tuples(part, part, part), min_size=2, max_size=8, unique=True))
def test_no_two_tuples_share_a_digest(tuples: list[tuple[str, str, str]]) -> None:
    for make in (keys.telegram_update_to_session_key, keys.webhook_to_session_key):
        assert len({make(*parts) for parts in tuples}) == len(tuples)


def test_no_two_short_tuples_share_a_canonical_key() -> None:
    parts = ["a", "b", ":", "a:", ":a", "a:b", "v2", "1", ",", "1:a,"]
    made = [keys.canonical_session_key(*four) for four in product(parts, repeat=4)]
    assert len(set(made)) == len(made)


required: list[tuple[Callable[..., str], tuple[str, ...]]] = [
    (keys.slack_event_to_session_key, ("team_id", "channel_id", "user_id")),
    (keys.teams_activity_to_session_key, ("tenant_id", "conversation_id", "user_id")),
    (keys.whatsapp_message_to_session_key, ("phone_number_id", "wa_id")),
    (keys.discord_message_to_session_key, ("channel_id", "user_id")),
    (keys.email_to_session_key, ("mailbox", "thread_id", "sender")),
    (keys.canonical_session_key, ("tenant", "provider")),
]


@pytest.mark.parametrize(
    ("make", "fields", "field"),
    [(make, fields, field) for make, fields in required for field in fields],
)
@pytest.mark.parametrize("bad", ["", "x" * 4097, "\ud800", None, 1.5, True])
def test_a_bad_part_is_named(
    make: Callable[..., str], fields: tuple[str, ...], field: str, bad: object
) -> None:
    arguments: dict[str, object] = dict.fromkeys(fields, "fine") | {field: bad}
    with pytest.raises(InvalidInputError) as caught:
        make(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("anchor", ["x" * 600, "line\nbreak"])
def test_a_canonical_key_is_a_session_key(anchor: str) -> None:
    with pytest.raises(InvalidInputError, match="key"):
        keys.canonical_session_key("t", "p", anchor)
