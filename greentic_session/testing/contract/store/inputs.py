"""Contract tests of invalid sessions: each is refused by name, before any I/O, and never quoted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ....codec import JsonCodec, MessagePackCodec
from ....errors import InvalidInputError
from ..assertions import kept, refusal, require, told
from ..samples import KEY, SECRET, AppState, ctx, evolve, session
from .bad_inputs import BAD_SESSIONS, bad_context, bad_cursor, bad_entry
from .verbs import CHANGES, WRITES

if TYPE_CHECKING:
    from ....codec import CodecFactory
    from ....model import Session
    from ...harness import StoreHarness


@dataclass
class _NotAState:
    step: int = 0


@pytest.mark.anyio
class InputContract:
    """An invalid session is refused by every verb that takes a session."""

    @pytest.mark.parametrize("bad", BAD_SESSIONS)
    async def test_a_bad_session_is_refused(self, harness: StoreHarness, bad: str) -> None:
        store = await harness.open()
        cas = await store.create(session(ttl_secs=1000))
        async with kept(store):
            for verb, write in WRITES.items():
                base = session("another" if verb == "create" else KEY, context={"note": SECRET})
                error = await refusal(write(store, BAD_SESSIONS[bad].spoil(base), cas))
                assert error.field == BAD_SESSIONS[bad].field, verb
                assert SECRET not in told(error), verb

    @pytest.mark.parametrize(
        "bad",
        [
            *("session dict", "key empty", "ttl_secs negative", "env empty", "cursor dict"),
            *("outbox list", "context list", "context with an object", "labels none"),
        ],
    )
    async def test_a_change_to_a_bad_session_is_refused(
        self, harness: StoreHarness, bad: str
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"note": SECRET}))
        async with kept(store):
            with pytest.raises(InvalidInputError) as caught:
                await store.mutate(KEY, BAD_SESSIONS[bad].spoil, ctx=ctx())
        assert caught.value.field in (BAD_SESSIONS[bad].field, "change")
        assert SECRET not in told(caught.value)

    @pytest.mark.parametrize(
        "context",
        [
            pytest.param({"step": 1}, id="dict"),
            pytest.param(None, id="none"),
            pytest.param([SECRET], id="list"),
            pytest.param(_NotAState(), id="other class"),
            pytest.param(AppState, id="the class itself"),
        ],
    )
    @pytest.mark.parametrize("verb", WRITES)
    async def test_a_context_of_another_class_than_the_stores_is_refused(
        self, harness: StoreHarness, verb: str, context: Any
    ) -> None:
        store = await harness.open(AppState)
        cas = await store.create(session(context=AppState()))
        base = evolve(session("another" if verb == "create" else KEY), context=context)
        async with kept(store):
            error = await refusal(WRITES[verb](store, base, cas))
        assert error.field == "context"
        assert SECRET not in told(error)

    @pytest.mark.parametrize("shape", ["list", "dict", "tuple", "among others"])
    @pytest.mark.parametrize("codec", [JsonCodec, MessagePackCodec])
    @pytest.mark.parametrize("part", ["context", "labels"])
    async def test_a_state_of_128_levels_is_taken_and_one_of_129_is_refused(
        self, harness: StoreHarness, part: str, codec: CodecFactory, shape: str
    ) -> None:
        store = await harness.open(codec=codec)

        def nested(levels: int) -> Session[Any]:
            flat: list[Any] = [[]] * 200
            value: Any = {"flat": flat} if shape == "among others" else {}
            for _ in range(levels - (4 if shape == "among others" else 2)):
                value = {"a": value} if shape == "dict" else [value]
                value = tuple(value) if shape == "tuple" else value
            state = {"a": value, "text": f'{SECRET}[[{{{{\\"' * 100}
            return session(context=state) if part == "context" else session(labels=state)

        cas = await store.create(nested(128))
        assert (await require(store)).cas == cas
        async with kept(store):
            for levels in (129, 5000, 100_000):
                deep = nested(levels)
                for verb, write in CHANGES.items():
                    with pytest.raises(InvalidInputError, match="max_depth") as caught:
                        await write(store, deep, cas)
                    assert caught.value.field == part, verb
                    assert SECRET not in told(caught.value)

    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1], ids=["over", "under"])
    async def test_an_int_that_the_codec_has_no_form_for_is_refused(
        self, harness: StoreHarness, number: int
    ) -> None:
        store = await harness.open(codec=MessagePackCodec)
        for bad in (bad_context(number), bad_cursor("outbox_seq", number), bad_entry(seq=number)):
            error = await refusal(store.put(bad.spoil(session())))
            assert str(number) not in told(error)
        assert await store.get(KEY, ctx=ctx()) is None
