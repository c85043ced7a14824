"""The Telegram example in one process: stopped at every point that matters, update by update."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import msgspec
import pytest
import redis

from greentic_session import WaitNotFoundError, WaitRegistry, create_session_store

from .test_examples import MESSAGES, imported, output_of, recorded_updates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from greentic_session import AsyncSessionStore


@pytest.fixture
def server(valkey_url: str) -> str:
    """A namespace of its own on the server."""
    return f"{valkey_url}?deadline=20&namespace=test:{uuid4().hex}"


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    with imported("telegram_worker") as module:
        yield module


class PowerCutError(Exception):
    """Stands for a kill at one exact point."""


class MortalGateway:
    """Lets each life send one new reply: the cut comes right after it, or before the next one."""

    def __init__(self, gateway: Any, *, after_sending: bool) -> None:
        self.sent: dict[object, object] = gateway.sent
        self.attempts: list[object] = []
        self.lives = 0
        self._gateway = gateway
        self._after_sending = after_sending
        self._may_send = True

    def new_life(self) -> MortalGateway:
        self.lives += 1
        self._may_send = True
        return self

    def spent(self) -> MortalGateway:
        self._may_send = self._after_sending
        return self

    def send(self, *replies: Any) -> None:
        before = len(self.sent)
        new = any(reply.name not in self.sent for reply in replies)
        if new and not self._may_send:
            raise PowerCutError
        self.attempts += [reply.name for reply in replies]
        self._gateway.send(*replies)
        assert len(self.sent) == before + new
        self._may_send = self._may_send and not new
        if new and self._after_sending:
            raise PowerCutError


def bot_of(
    worker: ModuleType, store: AsyncSessionStore[Any], gateway: Any, lease_secs: float = 3
) -> Any:
    return worker.Bot(store, WaitRegistry(store), gateway, lease_secs)


@pytest.mark.parametrize("after_sending", [True, False], ids=["unsettled", "unsent"])
def test_worker_stopped_at_every_reply(worker: ModuleType, after_sending: bool) -> None:
    expected = output_of("telegram_worker.py")
    updates = recorded_updates(worker)
    gateway = MortalGateway(worker.Gateway(), after_sending=after_sending)

    async def live_again_until_done() -> str:
        async with create_session_store("memory://", context_type=worker.Onboarding) as store:
            while True:
                bot = bot_of(worker, store, gateway.new_life())
                try:
                    report: str = await worker.run(bot.handle, gateway, updates)
                except ExceptionGroup as cuts:
                    _, others = cuts.split(PowerCutError)
                    assert others is None
                else:
                    return report

    assert anyio.run(live_again_until_done) == expected.rstrip("\n")
    assert gateway.lives == MESSAGES + after_sending
    # What a gateway without a memory would have sent: each at least once, some again.
    assert len(set(gateway.attempts)) == MESSAGES
    if after_sending:
        assert len(gateway.attempts) >= 2 * MESSAGES


def test_same_words_in_a_later_session_are_another_reply(worker: ModuleType) -> None:
    updates = recorded_updates(worker)
    later = [msgspec.structs.replace(u, update_id=u.update_id + 1_000_000) for u in updates]
    gateway = worker.Gateway()

    async def run_in_new_sessions(updates: list[Any]) -> None:
        async with create_session_store("memory://", context_type=worker.Onboarding) as store:
            await worker.run(bot_of(worker, store, gateway).handle, gateway, updates)

    for count, batch in enumerate((updates, later), start=1):
        anyio.run(run_in_new_sessions, batch)
        assert len(gateway.sent) == count * MESSAGES
    anyio.run(run_in_new_sessions, updates)  # after the sessions are gone: still repeats
    assert len(gateway.sent) == 2 * MESSAGES


class TestOneConversation:
    """Update by update, on a store in memory and on a server."""

    @pytest.fixture(params=["memory", "valkey"])
    def url(self, request: pytest.FixtureRequest) -> str:
        return "memory://" if request.param == "memory" else request.getfixturevalue("server")

    @staticmethod
    def said(worker: ModuleType, update_id: int, text: str) -> Any:
        return worker.Said(update_id, worker.Chat(-5, "Garden"), worker.User(7, "Ana"), text)

    def test_what_came_before_the_flow_is_no_answer(self, worker: ModuleType, url: str) -> None:
        gateway = worker.Gateway()
        conversation = [(1, "anyone?"), (2, "/start"), (1, "anyone?"), (3, "Ana"), (2, "/start")]

        async def talk() -> None:
            async with create_session_store(url, context_type=worker.Onboarding) as store:
                bot = bot_of(worker, store, gateway)
                for update_id, text in conversation:
                    await bot.handle(self.said(worker, update_id, text))

        anyio.run(talk)
        assert [sent.text for sent in gateway.sent.values()] == [
            "Hi Ana! What shall we call you?",
            "Hello Ana. What is your e-mail address?",
        ]

    @pytest.mark.parametrize("after_sending", [True, False], ids=["unsettled", "unsent"])
    def test_reply_of_a_dead_worker_goes_out_first(
        self, worker: ModuleType, url: str, after_sending: bool
    ) -> None:
        """Even if its update comes again only after the next: what was told is what is known."""
        gateway = worker.Gateway()
        mortal = MortalGateway(gateway, after_sending=after_sending)
        answer = self.said(worker, 2, "Ana")

        async def talk() -> None:
            async with create_session_store(url, context_type=worker.Onboarding) as store:
                bot = bot_of(worker, store, gateway)
                await bot.handle(self.said(worker, 1, "/start"))
                with pytest.raises(PowerCutError):
                    await bot_of(worker, store, mortal.spent()).handle(answer)
                for said in (self.said(worker, 3, "ana@"), answer):
                    await bot.handle(said)

        anyio.run(talk)
        assert [sent.text for sent in gateway.sent.values()] == [
            "Hi Ana! What shall we call you?",
            "Hello Ana. What is your e-mail address?",
            "That is not an e-mail address. Please try again.",
        ]

    def test_start_that_looked_too_early_changes_nothing(
        self, worker: ModuleType, url: str
    ) -> None:
        """Its worker finds no wait, and is held up while another registers the flow and goes on."""
        gateway = worker.Gateway()
        conversation = [(1, "/start"), (2, "Ana"), (3, "ana@beete.example"), (4, "pro")]

        class EarlyWaits:
            def __init__(self, waits: Any) -> None:
                self.register_wait = waits.register_wait
                self._looks = [self.look_too_early, waits.resume]

            def resume(self, *args: Any, **options: Any) -> Any:
                return self._looks.pop(0)(*args, **options)

            def look_too_early(self, *_args: Any, **_options: Any) -> Any:
                raise WaitNotFoundError

        async def talk() -> None:
            async with create_session_store(url, context_type=worker.Onboarding) as store:
                bot = bot_of(worker, store, gateway)
                early = bot._replace(waits=EarlyWaits(bot.waits))
                for update_id, text in conversation:
                    await bot.handle(self.said(worker, update_id, text))
                    if update_id == 2:
                        await early.handle(self.said(worker, 1, "/start"))

        anyio.run(talk)
        assert [sent.text for sent in gateway.sent.values()][2:] == [
            "Which plan, basic or pro?",
            "Welcome, Ana! ana@beete.example is on the pro plan.",
        ]

    def test_start_meets_itself(self, worker: ModuleType, url: str) -> None:
        gateway = worker.Gateway()
        start = self.said(worker, 1, "/start")

        async def talk() -> None:
            async with (
                create_session_store(url, context_type=worker.Onboarding) as store,
                anyio.create_task_group() as tasks,
            ):
                for _ in range(16):
                    tasks.start_soon(bot_of(worker, store, gateway).handle, start)

        anyio.run(talk)
        assert [sent.text for sent in gateway.sent.values()] == ["Hi Ana! What shall we call you?"]


def test_start_mends_a_lost_index(worker: ModuleType, server: str) -> None:
    """A session that no index leads to is found again, not waited for until it expires."""
    gateway = worker.Gateway()
    socket, options = server.removeprefix("unix://").split("?")
    namespace = options.rpartition("=")[2]
    said = TestOneConversation.said

    async def talk() -> None:
        async with create_session_store(server, context_type=worker.Onboarding) as store:
            bot = bot_of(worker, store, gateway)
            await bot.handle(said(worker, 1, "/start"))
            with redis.Redis(unix_socket_path=socket) as client:
                assert client.delete(*client.scan_iter(f"{namespace}:waits:*"))
            await bot.handle(said(worker, 2, "Ana"))  # ignored, since nothing waits
            await bot.handle(said(worker, 3, "/start"))
            await bot.handle(said(worker, 4, "Ana"))

    anyio.run(talk)
    assert [sent.text.partition(" ")[0] for sent in gateway.sent.values()] == ["Hi", "Hi", "Hello"]


def test_log_is_read_under_its_lock(
    worker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "sent.jsonl"
    mine = worker.Sent(("key", 0, "sha"), 1, "mine")
    lock = fcntl.flock

    def lock_after_another(file: Any, operation: int) -> None:
        assert operation == fcntl.LOCK_EX
        another = worker.Sent(("key", 0, "sha"), 1, "another's")
        log.write_bytes(msgspec.json.encode(another) + b"\n")
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_after_another)
    gateway = worker.Gateway(log)
    gateway.send(mine)
    assert [sent.text for sent in gateway.sent.values()] == ["another's"]
    assert log.read_bytes().count(b"\n") == 1


def test_look_ahead_is_bounded(worker: ModuleType) -> None:
    def sequence(*ids: int) -> list[int]:
        updates = [worker.Update(update_id) for update_id in ids]
        return [update.update_id for update in worker.in_sequence(updates)]

    assert sequence(3, 1, 2, 2, 5, 4, 1) == [1, 1, 2, 2, 3, 4, 5]
    assert sequence(1, 2, *range(10, 18), 3) == [1, 2, 3, *range(10, 18)]  # 4 to 9 never come
    assert sequence(*range(1, 10), *range(11, 19), 10, 19) == [*range(1, 20)]
    assert sequence(*range(1, 10), *range(11, 20), 10) == [*range(1, 10), *range(11, 20), 10]
    assert sequence(*range(1, 12), 3, 12) == [*range(1, 12), 3, 12]  # a repeat, as it comes
