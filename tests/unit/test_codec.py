"""Tests of the results and the state of codecs."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from sys import getsizeof
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from greentic_session import JsonCodec, MessagePackCodec, SessionBody, SessionCursor, SessionMeta
from greentic_session._compat import override

if TYPE_CHECKING:
    from collections.abc import Callable

    Codec = JsonCodec[Any] | MessagePackCodec[Any]


class Zone(tzinfo):
    """A time zone in Python, which is called while a codec runs."""

    def __init__(self, asked: Callable[[], object]) -> None:
        self._asked = asked

    @override
    def utcoffset(self, _dt: datetime | None) -> timedelta:
        self._asked()
        return timedelta(0)

    @override
    def dst(self, _dt: datetime | None) -> None:
        return None

    @override
    def tzname(self, _dt: datetime | None) -> str:
        return "Z"


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


def test_a_codec_may_be_called_while_it_encodes(codec: Codec) -> None:
    module = msgspec.json if isinstance(codec, JsonCodec) else msgspec.msgpack
    inner, within = body(text="I" * 200_000), list[bytes]()
    start, at = "x" * 100, datetime(2020, 1, 1, tzinfo=UTC)
    zone = Zone(lambda: within.append(codec.encode(inner)))
    outer = codec.encode(body(text=start, at=at.replace(tzinfo=zone), tail="end"))
    assert set(within) == {module.encode(inner)}
    assert outer == module.encode(body(text=start, at=at, tail="end"))
    codec.encode(body(text="x"))
    assert getsizeof(codec._buffer) < 1000


def test_threads_may_share_a_codec(codec: Codec) -> None:
    module = msgspec.json if isinstance(codec, JsonCodec) else msgspec.msgpack
    at = datetime(2020, 1, 1, tzinfo=UTC)
    zone = Zone(lambda: sum(range(50)))  # long enough for another thread to run

    def wrong_of(letter: str) -> int:
        wrong = 0
        for length in range(1, 500):
            text = letter * length
            expected = module.encode(body(text=text, at=at))
            wrong += codec.encode(body(text=text, at=at.replace(tzinfo=zone))) != expected
        return wrong

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert [*threads.map(wrong_of, "abcd")] == [0] * 4
    finally:
        sys.setswitchinterval(before)
