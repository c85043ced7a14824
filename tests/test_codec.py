"""What the codecs return, and what they keep."""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from greentic_session import (
    JsonCodec,
    MessagePackCodec,
    SessionBody,
    SessionCursor,
    SessionMeta,
)

if TYPE_CHECKING:
    Codec = JsonCodec[Any] | MessagePackCodec[Any]


def body(**context: object) -> SessionBody[dict[str, Any]]:
    return SessionBody(
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta(tenant_id="acme"),
        context=context,
    )


@pytest.fixture(params=[JsonCodec, MessagePackCodec])
def codec(request: pytest.FixtureRequest) -> Codec:
    made: Codec = request.param(dict)
    return made


def test_bytes_are_those_of_msgspec(codec: Codec) -> None:
    module = msgspec.json if isinstance(codec, JsonCodec) else msgspec.msgpack
    for length in (70_000, 0, 1000, 3, 100_000, 1):
        written = body(text="x" * length)
        assert codec.encode(written) == module.encode(written)


def test_what_was_returned_stays_when_more_is_encoded(codec: Codec) -> None:
    bodies = [body(text=letter * number) for number, letter in enumerate("abcdef", start=1)]
    encoded = [codec.encode(one) for one in bodies]
    assert [codec.decode(data) for data in encoded] == bodies


def test_a_large_body_is_not_kept(codec: Codec) -> None:
    codec.encode(body(text="x" * 1_000_000))
    assert getsizeof(codec._buffer) < 1000
    codec.encode(body(text="x"))
    assert getsizeof(codec._buffer) < 1000


def test_a_body_that_fails_half_way_leaves_nothing_behind(codec: Codec) -> None:
    with pytest.raises(TypeError):
        codec.encode(body(text="x" * 1_000_000, fault=object()))
    assert getsizeof(codec._buffer) < 100_000
    assert codec.decode(codec.encode(body(n=1))) == body(n=1)
