"""Tests of lost requests and replies: the reported outcome is the actual one."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from greentic_session import Cas, CasConflictError, OutcomeUnknownError, SessionKey
from greentic_session.redis.scripts import CREATE

from ..support.redis import (
    CTX,
    KEY,
    SEED,
    SHORT_SECS,
    control,
    counted,
    next_of,
    patiently,
    session,
    snapshot,
    store_at,
    until_async,
)
from ..support.redis_proxy import BREAKS, LOSSES, Fate, Proxy, at_random, first_script_of_each_key

if TYPE_CHECKING:
    from greentic_session import AsyncSessionStore
    from greentic_session.testing.servers import LocalServer

    Store = AsyncSessionStore[Any]

pytestmark = pytest.mark.anyio


class TestLostReplies:
    @pytest.mark.parametrize("fate", LOSSES, ids=lambda fate: fate.name.lower())
    async def test_each_verb_is_done_once_and_answered(
        self, server: LocalServer, fate: Fate
    ) -> None:
        namespace = f"test:{uuid4().hex}"
        async with (
            Proxy(server.port, first_script_of_each_key(fate)) as proxy,
            store_at(server.url, namespace=namespace) as direct,
            AsyncExitStack() as stores,
        ):

            async def own() -> Store:
                # Calls of one store are sent together, and would be lost together.
                store = store_at(proxy.url, namespace=namespace, deadline=5)
                return await stores.enter_async_context(store)

            tokens = {}
            for verb in ("put", "update_cas", "mutate", "touch", "delete", "expected"):
                tokens[verb] = await direct.create(session(f"victim-{verb}"))
            # The server has every script, so that the first request executes one.
            await direct.put(session())
            await direct.touch(KEY, ctx=CTX)
            await direct.mutate(KEY, counted)
            await direct.delete(KEY, ctx=CTX)

            def key(verb: str) -> SessionKey:
                return SessionKey(f"victim-{verb}")

            writes = asyncio.gather(
                (await own()).create(session("victim-create")),
                (await own()).put(session("victim-born")),
                (await own()).put(session("victim-put")),
                (await own()).update_cas(session("victim-update_cas"), tokens["update_cas"]),
            )
            others = asyncio.gather(
                (await own()).mutate(key("mutate"), counted, ctx=CTX),
                (await own()).touch(key("touch"), 500, ctx=CTX),
                (await own()).delete(key("delete"), ctx=CTX),
                (await own()).delete(key("expected"), ctx=CTX, expected=tokens["expected"]),
            )
            created, born, put, updated = await writes
            mutated, touched, deleted, expected = await others
            assert proxy.met[fate] == 8
            assert [created.value, born.value] == [1, 1]
            assert put == next_of(tokens["put"])
            assert updated == next_of(tokens["update_cas"])
            assert mutated.cas == next_of(tokens["mutate"])
            assert (touched, deleted, expected) == (True, True, True)

            async def stored(verb: str) -> Cas | None:
                found = await direct.get(key(verb), ctx=CTX)
                return None if found is None else found.cas

            assert await stored("create") == created
            assert await stored("born") == born
            assert await stored("put") == put
            assert await stored("update_cas") == updated
            assert await stored("mutate") == mutated.cas
            assert await stored("touch") == tokens["touch"]
            assert await stored("delete") is None
            assert await stored("expected") is None
            counted_once = await direct.get(key("mutate"), ctx=CTX)
            longer = await direct.get(key("touch"), ctx=CTX)
            assert counted_once is not None
            assert counted_once.session.context == {"count": 1}
            assert longer is not None
            assert longer.session.ttl_secs == 500

    async def test_a_repeated_delete_spares_what_was_made_since(self, server: LocalServer) -> None:
        namespace = f"test:{uuid4().hex}"
        async with (
            Proxy(server.port, first_script_of_each_key(Fate.LOSE)) as proxy,
            store_at(server.url, namespace=namespace) as direct,
            store_at(proxy.url, namespace=namespace) as store,
        ):
            made: list[Cas] = []

            async def make_again() -> None:
                made.append(await direct.create(session("victim-again")))

            proxy.before_loss = make_again
            token = await direct.create(session("victim-again"))
            await direct.delete(KEY, ctx=CTX)  # the server has the script
            assert await store.delete(SessionKey("victim-again"), ctx=CTX, expected=token)
            found = await direct.get(SessionKey("victim-again"), ctx=CTX)
            assert found is not None
            assert [found.cas] == made

    async def test_a_repeated_create_is_answered_though_the_record_is_gone(
        self, server: LocalServer
    ) -> None:
        namespace = f"test:{uuid4().hex}"
        async with (
            Proxy(server.port, first_script_of_each_key(Fate.LOSE)) as proxy,
            store_at(server.url, namespace=namespace) as direct,
            store_at(proxy.url, namespace=namespace) as store,
        ):
            key = SessionKey("victim-gone")

            async def remove() -> None:
                assert await direct.delete(key, ctx=CTX)

            proxy.before_loss = remove
            await direct.create(session())  # the server has the script
            assert (await store.create(session(key))).value == 1
            assert await direct.get(key, ctx=CTX) is None

    async def test_a_delete_by_a_hastier_worker_is_not_undone_by_a_repeated_create(
        self, server: LocalServer
    ) -> None:
        namespace = f"test:{uuid4().hex}"
        async with (
            Proxy(server.port, first_script_of_each_key(Fate.LOSE)) as proxy,
            store_at(server.url, namespace=namespace, deadline=SHORT_SECS) as hasty,
            store_at(proxy.url, namespace=namespace) as patient,
            control(server) as client,
        ):
            key = SessionKey("victim-gone")
            loop = asyncio.get_running_loop()

            async def remove() -> None:
                assert await patiently(lambda: hasty.delete(key, ctx=CTX))
                # Longer than the deleter's own attempts, and shorter than the creator's.
                ends_at = loop.time() + 3 * SHORT_SECS

                async def is_forgotten() -> bool:
                    return not await snapshot(client, namespace) or loop.time() > ends_at

                await until_async(is_forgotten)

            proxy.before_loss = remove
            await client.read("SCRIPT", "LOAD", CREATE.source)
            with suppress(OutcomeUnknownError):  # or it had the reply 1
                assert (await patient.create(session(key))).value == 1
            assert await patient.get(key, ctx=CTX) is None

    async def test_reported_is_actual_over_a_bad_line(self, server: LocalServer) -> None:
        namespace = f"test:{uuid4().hex}"
        async with (
            Proxy(server.port, at_random(0.3)) as proxy,
            store_at(server.url, namespace=namespace) as direct,
            store_at(proxy.url, namespace=namespace, max_connections=8) as store,
        ):
            writers = [Writer(store, number) for number in range(8)]
            # Calls that are sent together have one fate, so their number says little about the
            # connection.
            for _ in range(20):
                async with asyncio.TaskGroup() as tasks:
                    for writer in writers:
                        tasks.create_task(writer.write(15))
                if min(proxy.met[fate] for fate in BREAKS) >= 30:
                    break
            else:
                pytest.fail(f"the line was never as bad as meant: {proxy.met}")
            for writer in writers:
                found = await direct.get(writer.key, ctx=CTX)
                assert (found and found.cas) == writer.cas
            assert store.statistics().retries >= 30

    async def test_reported_is_actual_among_rivals_over_a_bad_line(
        self, server: LocalServer
    ) -> None:
        namespace = f"test:{uuid4().hex}"
        async with (
            Proxy(server.port, at_random(0.3)) as proxy,
            store_at(server.url, namespace=namespace) as direct,
            store_at(proxy.url, namespace=namespace, max_connections=8) as store,
        ):
            first = await direct.create(session(log=[]))
            won: list[str] = []
            refused: list[str] = []
            unknown: list[str] = []

            async def rival(name: str) -> None:
                for number in range(40):
                    mark = f"{name}-{number}"
                    found = await store.get(KEY, ctx=CTX)
                    assert found is not None
                    log = [*found.session.context["log"], mark]
                    try:
                        cas = await store.update_cas(session(log=log), found.cas)
                    except CasConflictError as conflict:
                        assert_moved_on(conflict, found.cas)
                        refused.append(mark)
                    except OutcomeUnknownError:
                        # The rivals wrote more than the operation log holds. The error is true, if
                        # not helpful.
                        unknown.append(mark)
                    else:
                        assert cas == next_of(found.cas)
                        won.append(mark)

            async with asyncio.TaskGroup() as tasks:
                for name in "abcd":
                    tasks.create_task(rival(name))
            found = await direct.get(KEY)
            assert found is not None
            log = found.session.context["log"]
            assert found.cas == Cas(value=1 + len(log), incarnation=first.incarnation)
            assert len(set(log)) == len(log)
            assert set(won) <= set(log) <= {*won, *unknown}
            assert not set(refused) & set(log), "a false conflict"
            assert len(won) > 20


def assert_moved_on(conflict: CasConflictError, expected: Cas) -> None:
    assert conflict.expected == expected
    assert conflict.current.value > expected.value
    assert conflict.current.incarnation == expected.incarnation


class Writer:
    """The only writer of its key, so it knows the result that each call must have."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._dice = random.Random(SEED * 100 + number)
        self.key = SessionKey(f"writer-{number}")
        self.cas: Cas | None = None
        self.calls = 0

    async def write(self, calls: int) -> None:
        for _ in range(calls):
            self.calls += 1
            if self.cas is None:
                verb = self._dice.choice((self._store.create, self._store.put))
                self.cas = await verb(session(self.key))
                assert self.cas.value == 1
            else:
                steps = (self._put, self._update, self._update, self._mutate, self._touch)
                await self._dice.choice((*steps, self._replace, self._delete))(self.cas)

    async def _put(self, cas: Cas) -> None:
        self.cas = await self._store.put(session(self.key))
        assert self.cas == next_of(cas)

    async def _update(self, cas: Cas) -> None:
        self.cas = await self._store.update_cas(session(self.key), cas)
        assert self.cas == next_of(cas)

    async def _mutate(self, cas: Cas) -> None:
        found = await self._store.mutate(self.key, counted, ctx=CTX, attempts=1)
        self.cas = found.cas
        assert self.cas == next_of(cas)

    async def _touch(self, _cas: Cas) -> None:
        assert await self._store.touch(self.key, 1000, ctx=CTX)

    async def _replace(self, cas: Cas) -> None:
        self.cas = await self._store.replace_incarnation(session(self.key), cas)
        assert self.cas.value == 1
        assert self.cas.incarnation != cas.incarnation

    async def _delete(self, cas: Cas) -> None:
        assert await self._store.delete(self.key, ctx=CTX, expected=cas)
        self.cas = None


# --- the caller's own task -----------------------------------------------------------------------
