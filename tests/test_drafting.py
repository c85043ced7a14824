"""What a session must be before it is written, where the contract's tests do not ask."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from greentic_session import (
    InvalidInputError,
    JsonCodec,
    MessagePackCodec,
    Session,
    SessionCursor,
    SessionMeta,
    create_session_store,
    new_session_key,
)

RAW = msgspec.Raw(b'1},"user_id":"someone-else","x":{')


def make(context: Any, **labels: Any) -> Session[Any]:
    return Session(
        key=new_session_key(),
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta(tenant_id="acme", labels=labels),
        context=context,
    )


class Typed(msgspec.Struct):
    given: msgspec.Raw


@pytest.mark.parametrize("codec", [JsonCodec, MessagePackCodec])
@pytest.mark.parametrize(
    ("session", "field"),
    [
        (make({"a": 1, "b": RAW}), "context"),
        (make({}, a=RAW), "labels"),
        (make({}, a={"b": [1, {"c": RAW}]}), "labels"),
        (make({}, a=((RAW,),)), "labels"),
    ],
)
@pytest.mark.parametrize("context_type", [dict, dict[str, Any], dict[str, object]])
def test_what_is_written_unchecked_is_refused(
    codec: Any, session: Session[Any], field: str, context_type: Any
) -> None:
    store = create_session_store("memory://", context_type=context_type, codec=codec)
    with pytest.raises(InvalidInputError, match="Raw") as caught:
        store.encoder.encode(session)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("context_type", "context"),
    [(Typed, Typed(msgspec.Raw(b"1"))), (dict[str, msgspec.Raw], {"a": msgspec.Raw(b"1")})],
)
def test_a_context_type_may_name_it(context_type: Any, context: Any) -> None:
    encoder = create_session_store("memory://", context_type=context_type).encoder
    session = make(context)
    encoded = encoder.encode(session)
    assert encoder.decode_body(session.key, encoded.body).context == context


def test_labels_that_refer_to_themselves_are_refused() -> None:
    labels: dict[str, Any] = {}
    labels["a"] = labels
    with pytest.raises(InvalidInputError, match="refers to itself"):
        create_session_store("memory://").encoder.encode(make({}, **labels))
