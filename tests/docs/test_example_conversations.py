"""Tests of the Telegram example in one process, stopped at every relevant point of each update."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import msgspec
import pytest
import redis

from greentic_session import create_session_store
from greentic_session.ordering import SessionInbox

from .test_examples import MESSAGES, imported, output_of, recorded_updates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from greentic_session import AsyncSessionStore


@pytest.fixture
def server(valkey_url: str) -> str:
    """Yield a fresh namespace on the server."""
    return f"{valkey_url}?deadline=20&namespace=test:{uuid4().hex}"


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    with imported("telegram_worker") as module:
        yield module


class PowerCutError(BaseException):
    """Stands for a kill at one exact point. It counts as an attempt at the turn's message."""


class FailureError(Exception):
    """Stands for a failure, after which the turn's message is delayed by the backoff."""


class MortalGateway:
    """Lets each life of the process send one new reply.

    The cut is right after it or before the next one.
    """

    def __init__(
        self, gateway: Any, *, after_sending: bool, cut: type[BaseException] = PowerCutError
    ) -> None:
        self.cut = cut
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
            raise self.cut
        self.attempts += [reply.name for reply in replies]
        self._gateway.send(*replies)
        assert len(self.sent) == before + new
        self._may_send = self._may_send and not new
        if new and self._after_sending:
            raise self.cut


def bot_of(
    worker: ModuleType, store: AsyncSessionStore[Any], gateway: Any, attempts: int = 5
) -> Any:
    inbox = SessionInbox(store, worker.TENANT, attempts=attempts, retry_delay=0.001)
    return worker.Bot(store, inbox, gateway)


async def run(worker: ModuleType, bot: Any, updates: list[Any]) -> str:
    async with bot.working(4):
        report: str = await worker.run(bot, updates)
    return report


async def hear(worker: ModuleType, bot: Any, *conversation: Any) -> None:
    """Admit an update, and take turns until all messages are handled."""
    for said in conversation:
        await worker.admit(bot.inbox, said)
    while (await worker.admit(bot.inbox, conversation[0])).waiting:
        async with bot.inbox.take("worker", most=1) as turn:
            await bot.handle(turn)


@pytest.mark.parametrize("after_sending", [True, False], ids=["unsettled", "unsent"])
def test_worker_stopped_at_every_reply(worker: ModuleType, after_sending: bool) -> None:
    expected = output_of("telegram_worker.py")
    updates = recorded_updates(worker)
    gateway = MortalGateway(worker.telegram.Gateway(), after_sending=after_sending)

    async def live_again_until_done() -> str:
        async with create_session_store("memory://", context_type=worker.Onboarding) as store:
            while True:
                bot = bot_of(worker, store, gateway.new_life(), attempts=1000)
                try:
                    return await run(worker, bot, updates)
                except BaseExceptionGroup as cuts:
                    _, others = cuts.split(PowerCutError)
                    assert others is None

    assert anyio.run(live_again_until_done) == expected.rstrip("\n")
    assert gateway.lives == MESSAGES + after_sending
    # The messages that a gateway without deduplication would have sent: each at least once.
    assert len(set(gateway.attempts)) == MESSAGES
    if after_sending:
        assert len(gateway.attempts) >= 2 * MESSAGES


def test_same_words_in_a_later_session_are_another_reply(worker: ModuleType) -> None:
    updates = recorded_updates(worker)
    later = [msgspec.structs.replace(u, update_id=u.update_id + 1_000_000) for u in updates]
    gateway = worker.telegram.Gateway()

    async def run_in_new_sessions(updates: list[Any]) -> None:
        async with create_session_store("memory://", context_type=worker.Onboarding) as store:
            await run(worker, bot_of(worker, store, gateway), updates)

    for count, batch in enumerate((updates, later), start=1):
        anyio.run(run_in_new_sessions, batch)
        assert len(gateway.sent) == count * MESSAGES
    anyio.run(run_in_new_sessions, updates)  # still repeats after the sessions are gone
    assert len(gateway.sent) == 2 * MESSAGES


class TestOneConversation:
    """Tests update by update, on a store in memory and on a server."""

    @pytest.fixture(params=["memory", "valkey"])
    def url(self, request: pytest.FixtureRequest) -> str:
        return "memory://" if request.param == "memory" else request.getfixturevalue("server")

    @staticmethod
    def said(worker: ModuleType, update_id: int, text: str) -> Any:
        return worker.Said(
            update_id, worker.telegram.Chat(-5, "Garden"), worker.telegram.User(7, "Ana"), text
        )

    def test_what_came_before_the_flow_is_no_answer(self, worker: ModuleType, url: str) -> None:
        gateway = worker.telegram.Gateway()
        conversation = [(1, "anyone?"), (2, "/start"), (1, "anyone?"), (3, "Ana"), (2, "/start")]

        async def talk() -> None:
            async with create_session_store(url, context_type=worker.Onboarding) as store:
                bot = bot_of(worker, store, gateway)
                for update_id, text in conversation:
                    await hear(worker, bot, self.said(worker, update_id, text))

        anyio.run(talk)
        assert [sent.text for sent in gateway.sent.values()] == [
            "Hi Ana! What shall we call you?",
            "Hello Ana. What is your e-mail address?",
        ]

    @pytest.mark.parametrize("after_sending", [True, False], ids=["unsettled", "unsent"])
    @pytest.mark.parametrize("attempts", [1, 2], ids=["given-up", "again"])
    def test_reply_of_a_dead_worker_goes_out_first(
        self, worker: ModuleType, url: str, attempts: int, after_sending: bool
    ) -> None:
        """Even if its update became a dead letter and is replayed after the next one."""
        gateway = worker.telegram.Gateway()
        mortal = MortalGateway(gateway, after_sending=after_sending, cut=FailureError)
        start, answer, next_answer = (
            self.said(worker, number, text)
            for number, text in enumerate(("/start", "Ana", "ana@"), start=1)
        )

        async def talk() -> None:
            async with create_session_store(url, context_type=worker.Onboarding) as store:
                bot = bot_of(worker, store, gateway, attempts)
                await hear(worker, bot, start)
                with pytest.raises(FailureError):
                    await hear(worker, worker.Bot(store, bot.inbox, mortal.spent()), answer)
                await hear(worker, bot, next_answer)
                letters = [letter async for letter in bot.inbox.dead_letters()]
                assert [letter.event_id for letter in letters] == ["2"] * (attempts == 1)
                for letter in letters:
                    assert await bot.inbox.replay(letter)
                await hear(worker, bot, next_answer)

        anyio.run(talk)
        assert [sent.text for sent in gateway.sent.values()] == [
            "Hi Ana! What shall we call you?",
            "Hello Ana. What is your e-mail address?",
            "That is not an e-mail address. Please try again.",
        ]

    def test_start_queued_after_the_end_begins_a_new_flow(
        self, worker: ModuleType, url: str
    ) -> None:
        """The end of one flow removes no message of the next, which was already there."""
        attempts: list[Any] = []

        class CountingGateway(worker.telegram.Gateway):  # type: ignore[misc, name-defined]
            def send(self, *replies: Any) -> None:
                attempts.extend(replies)
                super().send(*replies)

        gateway = CountingGateway()
        texts = ("/start", "Ana", "ana@beete.example", "pro", "/start", "Bea")

        async def talk() -> None:
            async with create_session_store(url, context_type=worker.Onboarding) as store:
                bot = bot_of(worker, store, gateway)
                saids = [self.said(worker, *numbered) for numbered in enumerate(texts, start=1)]
                await hear(worker, bot, *saids)

        anyio.run(talk)
        assert [sent.text for sent in gateway.sent.values()][2:] == [
            "Which plan, basic or pro?",
            "Welcome, Ana! ana@beete.example is on the pro plan.",
            "Hi Ana! What shall we call you?",
            "Hello Bea. What is your e-mail address?",
        ]
        assert len(attempts) == len(texts)  # no worker died, so nothing is sent again

    def test_start_sent_many_times_begins_one_flow(self, worker: ModuleType, url: str) -> None:
        gateway = worker.telegram.Gateway()
        start = self.said(worker, 1, "/start")
        admitted: list[Any] = []

        async def admit(bot: Any) -> None:
            admitted.append(await worker.admit(bot.inbox, start))

        async def talk() -> None:
            async with create_session_store(url, context_type=worker.Onboarding) as store:
                bot = bot_of(worker, store, gateway)
                async with bot.working(16), anyio.create_task_group() as tasks:
                    for _ in range(16):
                        tasks.start_soon(admit, bot_of(worker, store, gateway))
                await hear(worker, bot, start)

        anyio.run(talk)
        assert sum(told.is_new for told in admitted) == 1
        assert [sent.text for sent in gateway.sent.values()] == ["Hi Ana! What shall we call you?"]


def test_repeat_mends_a_lost_index(worker: ModuleType, server: str) -> None:
    """A message that is missing from the index is found when its conversation gets another one."""
    gateway = worker.telegram.Gateway()
    socket, options = server.removeprefix("unix://").split("?")
    namespace = options.rpartition("=")[2]
    start = TestOneConversation.said(worker, 1, "/start")

    async def talk() -> None:
        async with create_session_store(server, context_type=worker.Onboarding) as store:
            bot = bot_of(worker, store, gateway)
            await worker.admit(bot.inbox, start)
            with redis.Redis(unix_socket_path=socket) as client:
                assert client.delete(*client.scan_iter(f"{namespace}:inbox:*"))
            async with bot.inbox.take("worker", wait=0) as turn:
                assert turn is None
            await hear(worker, bot, start)

    anyio.run(talk)
    assert [sent.text for sent in gateway.sent.values()] == ["Hi Ana! What shall we call you?"]


def test_log_is_read_under_its_lock(
    worker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "sent.jsonl"
    mine = worker.telegram.Sent(("key", 0, "sha"), 1, "mine")
    lock = fcntl.flock

    def lock_after_another(file: Any, operation: int) -> None:
        assert operation == fcntl.LOCK_EX
        another = worker.telegram.Sent(("key", 0, "sha"), 1, "another's")
        log.write_bytes(msgspec.json.encode(another) + b"\n")
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_after_another)
    gateway = worker.telegram.Gateway(log)
    gateway.send(mine)
    assert [sent.text for sent in gateway.sent.values()] == ["another's"]
    assert log.read_bytes().count(b"\n") == 1


def test_look_ahead_is_bounded(worker: ModuleType) -> None:
    def sequence(*ids: int) -> list[int]:
        updates = [worker.telegram.Update(update_id) for update_id in ids]
        return [update.update_id for update in worker.telegram.in_sequence(updates)]

    assert sequence(3, 1, 2, 2, 5, 4, 1) == [1, 1, 2, 2, 3, 4, 5]
    assert sequence(1, 2, *range(10, 18), 3) == [1, 2, 3, *range(10, 18)]  # 4 to 9 never arrive
    assert sequence(*range(1, 10), *range(11, 19), 10, 19) == [*range(1, 20)]
    assert sequence(*range(1, 10), *range(11, 20), 10) == [*range(1, 10), *range(11, 20), 10]
    assert sequence(*range(1, 12), 3, 12) == [*range(1, 12), 3, 12]  # a repeat, at once
