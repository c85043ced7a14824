"""The examples, run as a reader runs them: as programs, killed half way, and several at once."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import msgspec
import pytest

from greentic_session import create_session_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICKSTART = """\
1. key     2a6a8cc2ce1585f7…, the same on every machine
2. put     version 1, waiting at ask-size
3. get     version 1, Order(pizza='margherita', size='medium')
   outbox  recorded: new=True; again: new=False
   update  version 2, waiting at confirm, outbox of 1
   stale   refused: had 1, stored is 2
4. touch   True: two hours from now, same version
   delete  True, then get is None
"""
MESSAGES = 54


def program(name: str, *args: object, **variables: str) -> tuple[list[str], dict[str, str]]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GREENTIC_SESSION_URL", "REDIS_URL")
    }
    environment |= {"PYTHONIOENCODING": "utf-8", **variables}
    # Warnings are errors there too: an example leaves nothing open.
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, args)]
    return command, environment


def output_of(name: str, *args: object, **variables: str) -> str:
    command, environment = program(name, *args, **variables)
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def started(name: str, *args: object) -> subprocess.Popen[str]:
    command, environment = program(name, *args)
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def assert_each_once_in_order(log: Path) -> None:
    """Every conversation's steps stand in the log from 0 on, each once."""
    steps: dict[str, list[int]] = defaultdict(list)
    for line in log.read_text(encoding="utf-8").splitlines():
        message: dict[str, Any] = json.loads(line)
        key, seq, _ = message["name"]
        steps[key].append(seq)
    assert sum(map(len, steps.values())) == MESSAGES
    for key, seqs in steps.items():
        assert seqs == list(range(len(seqs))), key


@pytest.fixture
def server(valkey_url: str) -> str:
    """A namespace of its own on the server."""
    return f"{valkey_url}?deadline=20&namespace=test:{uuid4().hex}"


@pytest.fixture(scope="module")
def expected() -> str:
    return output_of("telegram_worker.py")


# --- quickstart ---------------------------------------------------------------------------------


def test_quickstart_in_memory() -> None:
    hint = "5. set REDIS_URL and run again to see the same on a server\n"
    assert output_of("quickstart.py") == QUICKSTART + hint


@pytest.mark.parametrize("variable", ["GREENTIC_SESSION_URL", "REDIS_URL"])
def test_quickstart_on_a_server(server: str, variable: str) -> None:
    there = output_of("quickstart.py", **{variable: server})
    assert there == f"{QUICKSTART}5. the same on redis\n{QUICKSTART}"


# --- the worker as a program --------------------------------------------------------------------


def test_worker_in_memory(expected: str) -> None:
    lines = expected.splitlines()
    assert lines[-1] == f"81 deliveries, 16 repeats, 13 out of order; {MESSAGES} messages sent"
    at = lines.index("private chat, Zoë:")
    assert lines[at : at + 6] == [
        "private chat, Zoë:",
        "  Hi Zoë! What shall we call you?",
        "  Hello Zoë van der Berg 🌷. What is your e-mail address?",
        "  That is not an e-mail address. Please try again.",
        "  Which plan, basic or pro?",
        "  Welcome, Zoë van der Berg 🌷! zoe@tulpen.example is on the pro plan.",
    ]
    assert sum("Welcome, " in line for line in lines) == 10  # nine conversations, one done twice


@pytest.mark.parametrize("workers", [1, 16])
def test_worker_on_a_server(server: str, workers: int, expected: str) -> None:
    assert output_of("telegram_worker.py", "--url", server, "--workers", workers) == expected


@pytest.mark.parametrize("lines", [1, 9, 23, 40])
def test_worker_killed_and_run_again(
    server: str, tmp_path: Path, lines: int, expected: str
) -> None:
    log = tmp_path / "sent.jsonl"
    args = ("--url", server, "--sent", log)
    with started("telegram_worker.py", *args, "--pace", 10) as worker:
        deadline = time.monotonic() + 30
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            assert worker.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.001)  # between two looks at the log
        worker.kill()
    assert worker.returncode == -signal.SIGKILL
    assert lines <= log.read_bytes().count(b"\n") < MESSAGES
    with log.open("ab") as torn:
        torn.write(b'{"key":"half a li')
    assert output_of("telegram_worker.py", *args) == expected
    assert_each_once_in_order(log)
    assert output_of("telegram_worker.py", *args) == expected  # all repeats: nothing is sent
    assert_each_once_in_order(log)


def test_two_processes_share_the_work(server: str, tmp_path: Path, expected: str) -> None:
    log = tmp_path / "sent.jsonl"
    args = ("--url", server, "--sent", log, "--pace", 1)
    with (
        started("telegram_worker.py", *args) as one,
        started("telegram_worker.py", *args) as other,
    ):
        outputs = [one.communicate(timeout=20), other.communicate(timeout=20)]
    assert outputs == [(expected, ""), (expected, "")]
    assert_each_once_in_order(log)


# --- the worker, stopped at every point that matters --------------------------------------------


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(
        "telegram_worker_example", EXAMPLES / "telegram_worker.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its structs look their annotations up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


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

    def send(self, *replies: Any) -> None:
        before = len(self.sent)
        new = any(reply.name not in self.sent for reply in replies)
        if new and not self._may_send:
            raise PowerCutError
        self.attempts += [reply.name for reply in replies]
        self._gateway.send(*replies)
        assert len(self.sent) == before + new
        if new and self._after_sending:
            raise PowerCutError
        self._may_send = self._may_send and not new


def recorded_updates(worker: ModuleType) -> list[Any]:
    recorded = (EXAMPLES / "telegram_updates.jsonl").read_bytes()
    updates: list[Any] = msgspec.json.Decoder(worker.Update).decode_lines(recorded)
    return updates


@pytest.mark.parametrize("after_sending", [True, False], ids=["unacknowledged", "unsent"])
def test_worker_stopped_at_every_reply(
    worker: ModuleType, expected: str, after_sending: bool
) -> None:
    updates = recorded_updates(worker)
    gateway = MortalGateway(worker.Gateway(), after_sending=after_sending)

    async def live_again_until_done() -> str:
        async with create_session_store("memory://", context_type=worker.Onboarding) as store:
            while True:
                try:
                    report: str = await worker.run(store, gateway.new_life(), updates)
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
            await worker.run(store, gateway, updates)

    for count, batch in enumerate((updates, later), start=1):
        anyio.run(run_in_new_sessions, batch)
        assert len(gateway.sent) == count * MESSAGES
    anyio.run(run_in_new_sessions, updates)  # after the sessions are gone: still repeats
    assert len(gateway.sent) == 2 * MESSAGES


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

    assert sequence(3, 1, 2, 2, 5, 4, 1) == [1, 2, 3, 4, 5]
    assert sequence(1, 2, *range(10, 18), 3) == [1, 2, 3, *range(10, 18)]  # 4 to 9 never come
    assert sequence(*range(1, 10), *range(11, 19), 10, 19) == [*range(1, 20)]
    assert sequence(*range(1, 10), *range(11, 20), 10) == [*range(1, 10), *range(11, 20), 10]
