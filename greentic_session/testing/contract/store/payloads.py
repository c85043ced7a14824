"""Contract tests of the size limit of an encoded session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ....codec import MessagePackCodec
from ....config import DEFAULT_MAX_PAYLOAD_BYTES
from ....errors import PayloadTooLargeError
from ....model import Cas, OutboxEntry, SessionKey
from ..assertions import everything, kept, refusal, require, told
from ..samples import KEY, SECRET, ctx, session
from .verbs import CHANGES, WRITES

if TYPE_CHECKING:
    from ...harness import StoreHarness


@pytest.mark.anyio
class PayloadContract:
    """The limit is on the encoded session. That size is accepted, one more byte is not."""

    @pytest.mark.parametrize("codec", ["json", "msgpack"])
    async def test_a_session_at_the_limit_is_taken_and_one_over_it_is_not(
        self, harness: StoreHarness, codec: str
    ) -> None:
        kind: dict[str, Any] = {} if codec == "json" else {"codec": MessagePackCodec}
        given = session(context={"note": SECRET})
        narrow = await harness.open(max_payload_bytes=1, **kind)
        too_large = await refusal(narrow.put(given))
        assert isinstance(too_large, PayloadTooLargeError)
        assert too_large.limit == 1
        size = too_large.size
        assert size > len(SECRET)
        exact = await harness.open(max_payload_bytes=size, **kind)
        await exact.put(given)
        assert (await require(exact)).session.context == {"note": SECRET}
        async with kept(exact):
            error = await refusal(exact.put(session(context={"note": f"{SECRET}."})))
        assert isinstance(error, PayloadTooLargeError)
        assert (error.size, error.limit) == (size + 1, size)
        assert SECRET not in told(error)

    @pytest.mark.parametrize("part", ["context", "labels", "cursor", "outbox"])
    @pytest.mark.parametrize("verb", ["create", *CHANGES])
    async def test_every_part_of_a_session_counts(
        self, harness: StoreHarness, verb: str, part: str
    ) -> None:
        store = await harness.open(max_payload_bytes=2000)
        cas = Cas.none()
        if verb != "create":
            cas = await store.create(session(context={"n": 1}))
        text = SECRET * 80
        given = {
            "context": session(context={"note": text}),
            "labels": session(labels={"note": text}),
            "cursor": session().advance(text),
            "outbox": session(outbox=tuple(OutboxEntry.for_payload(n, b"") for n in range(100))),
        }[part]
        write = WRITES["create"] if verb == "create" else CHANGES[verb]
        async with kept(store):
            with pytest.raises(PayloadTooLargeError) as caught:
                await write(store, given, cas)
        assert caught.value.size > caught.value.limit == 2000
        assert SECRET not in told(caught.value)

    async def test_repeated_outbox_pairs_do_not_count(self, harness: StoreHarness) -> None:
        store = await harness.open(max_payload_bytes=2000)
        entry = OutboxEntry.for_payload(1, b"hello")
        await store.put(session(outbox=(entry,) * 1000))
        assert (await require(store)).session.outbox == (entry,)

    @pytest.mark.parametrize("letter", ["a", "\0", "é", "😀"], ids=ascii)
    async def test_a_session_of_nearly_a_mebibyte_passes(
        self, harness: StoreHarness, letter: str
    ) -> None:
        store = await harness.open()
        # JSON encodes a control character in six bytes.
        size = {"a": 1, "\0": 6, "é": 2, "😀": 4}[letter]
        text = letter * ((DEFAULT_MAX_PAYLOAD_BYTES - 1000) // size)
        cas = await store.create(session(context={"text": text}))
        assert (await require(store)).session.context == {"text": text}
        cas = await store.update_cas(session(context={"text": text, "n": 2}), cas)
        found = await require(store)
        assert found.cas == cas
        assert await store.get_many([KEY, KEY], ctx=ctx()) == [found, found]
        assert await everything(store) == {KEY: found}

    async def test_the_usual_limit_is_a_mebibyte(self, harness: StoreHarness) -> None:
        store = await harness.open()
        with pytest.raises(PayloadTooLargeError) as caught:
            await store.put(session(context={"text": "a" * 2**20}))
        assert caught.value.limit == 2**20 == DEFAULT_MAX_PAYLOAD_BYTES

    @pytest.mark.parametrize("verb", ["get_many", "scan"])
    async def test_a_read_of_many_bytes_is_complete_and_lets_other_tasks_run(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        keys = [SessionKey(f"large-{number}") for number in range(40)]
        for key in keys:
            await store.put(session(key, context={"text": "x" * 200_000, "name": key}))
        steps = 0

        async def count() -> None:
            nonlocal steps
            while True:
                await checkpoint()
                steps += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            if verb == "scan":
                found = [one.session.key async for one in store.scan(ctx())]
                assert sorted(found) == sorted(keys)
            else:
                asked = [*keys, SessionKey("absent"), keys[0]]
                many = await store.get_many(asked, ctx=ctx())
                names = [one and one.session.context["name"] for one in many]
                assert names == [*keys, None, keys[0]]
            tasks.cancel_scope.cancel()
        assert steps >= 4
