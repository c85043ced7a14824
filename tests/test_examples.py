"""The examples, run as a reader runs them: as programs, killed half way, and several at once."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import msgspec
import pytest

from greentic_session import (
    ReplyScope,
    TenantCtx,
    WaitRegistry,
    create_session_store,
)

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
FLOWS = 10  # of nine conversations: one person onboards twice
# The example as a program whose worker processes die at chosen moments: each process takes one line
# of the plan, `moment turn`, and the file system sees to it that no other does.
DOOMED = """\
import importlib.util, os, signal, sys
from pathlib import Path

import anyio

spec = importlib.util.spec_from_file_location("telegram_worker_example", os.environ["EXAMPLE"])
example = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = example
spec.loader.exec_module(example)
plan = Path(os.environ["PLAN"])
doom, turns = ("", 0), 0
if "--work" in sys.argv:
    for number, line in enumerate(plan.read_text().splitlines()):
        try:
            plan.with_name(f"taken-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        moment, turn = line.split()
        doom = (moment, int(turn))
        break


def live_through(moment):
    if doom[0] == moment and turns >= doom[1]:
        os.kill(os.getpid(), signal.SIGKILL)


class Bot(example.Bot):
    async def _take(self, turn, said, scope):
        global turns
        turns += 1
        with plan.with_name("turns").open("a") as log:
            log.write(f"{os.getpid()} {said.key}\\n")
        live_through("claimed")
        await super()._take(turn, said, scope)
        live_through("settled")


class Gateway(example.Gateway):
    def send(self, *replies):
        if replies:
            live_through("saved")
        super().send(*replies)
        if replies:
            live_through("sent")


example.Bot, example.Gateway = Bot, Gateway
anyio.run(example.main)
"""


def program(name: str | Path, *args: object, **variables: str) -> tuple[list[str], dict[str, str]]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GREENTIC_SESSION_URL", "REDIS_URL")
    }
    # Warnings are errors there too, in every process: an example leaves nothing open.
    environment |= {"PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error", **variables}
    return [sys.executable, str(EXAMPLES / name), *map(str, args)], environment


def ended(name: str | Path, *args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command, environment = program(name, *args, **variables)
    return subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=30, check=False
    )


def output_of(name: str, *args: object, **variables: str) -> str:
    done = ended(name, *args, **variables)
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


def wait_for_lines(log: Path, lines: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not log.exists() or log.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)  # the other process tells how far it is by its log alone


def assert_each_once_in_order(log: Path) -> None:
    """Every flow's steps stand in the log from 0 on, each once."""
    steps: dict[str, list[int]] = defaultdict(list)
    for line in log.read_text(encoding="utf-8").splitlines():
        message: dict[str, Any] = json.loads(line)
        key, seq, _ = message["name"]
        steps[key].append(seq)
    assert sum(map(len, steps.values())) == MESSAGES
    assert sum(seqs.count(0) for seqs in steps.values()) == FLOWS
    for key, seqs in steps.items():
        assert all(after in (before + 1, 0) for before, after in pairwise([-1, *seqs])), key


@contextmanager
def imported(name: str) -> Iterator[ModuleType]:
    """Import an example."""
    spec = importlib.util.spec_from_file_location(f"{name}_example", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its structs look their annotations up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def recorded_updates(worker: ModuleType) -> list[Any]:
    recorded = (EXAMPLES / "telegram_updates.jsonl").read_bytes()
    updates: list[Any] = msgspec.json.Decoder(worker.Update).decode_lines(recorded)
    return updates


@pytest.fixture
def server(valkey_url: str) -> str:
    """A namespace of its own on the server."""
    return f"{valkey_url}?deadline=20&namespace=test:{uuid4().hex}"


@pytest.fixture(scope="module")
def expected() -> str:
    return output_of("telegram_worker.py")


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    with imported("telegram_worker") as module:
        yield module


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
    assert sum("Welcome, " in line for line in lines) == FLOWS


@pytest.mark.parametrize("workers", [1, 16])
def test_worker_on_a_server(server: str, workers: int, expected: str) -> None:
    assert output_of("telegram_worker.py", "--url", server, "--workers", workers) == expected


@pytest.mark.parametrize("lines", [1, 9, 23, 40])
def test_worker_killed_and_run_again(
    server: str, tmp_path: Path, lines: int, expected: str
) -> None:
    log = tmp_path / "sent.jsonl"
    args = ("--url", server, "--sent", log, "--lease", 0.3)
    with started("telegram_worker.py", *args, "--pace", 10) as worker:
        wait_for_lines(log, lines, worker)
        worker.kill()
    assert worker.returncode == -signal.SIGKILL
    assert lines <= log.read_bytes().count(b"\n") < MESSAGES
    with log.open("ab") as torn:
        torn.write(b'{"key":"half a li')
    assert output_of("telegram_worker.py", *args) == expected
    assert_each_once_in_order(log)
    assert output_of("telegram_worker.py", *args) == expected  # all repeats: nothing is sent
    assert_each_once_in_order(log)


def test_two_programs_share_the_work(server: str, tmp_path: Path, expected: str) -> None:
    log = tmp_path / "sent.jsonl"
    args = ("--url", server, "--sent", log, "--pace", 1)
    with (
        started("telegram_worker.py", *args) as one,
        started("telegram_worker.py", *args) as other,
    ):
        outputs = [one.communicate(timeout=20), other.communicate(timeout=20)]
    assert outputs == [(expected, ""), (expected, "")]
    assert_each_once_in_order(log)


# --- its processes ------------------------------------------------------------------------------


def run_doomed(folder: Path, server: str, *plan: str) -> subprocess.CompletedProcess[str]:
    """Run three worker processes, of which the first die as planned."""
    (folder / "plan").write_text("\n".join(plan))
    (folder / "doomed.py").write_text(DOOMED)
    return ended(
        folder / "doomed.py",
        *("--url", server, "--sent", folder / "sent.jsonl", "--processes", 3, "--lease", 0.3),
        EXAMPLE=str(EXAMPLES / "telegram_worker.py"),
        PLAN=str(folder / "plan"),
    )


async def assert_nothing_left(url: str, example: ModuleType) -> None:
    """No session, no wait, no claim: every flow came to its end."""
    people = {
        (said.chat.id, said.user.id)
        for said in map(example.said_in, recorded_updates(example))
        if said is not None
    }
    async with create_session_store(url, context_type=example.Onboarding) as store:
        assert [found async for found in store.scan(TenantCtx(tenant_id="acme"))] == []
        waits = WaitRegistry(store)
        for chat_id, user_id in people:
            ctx = TenantCtx(tenant_id="acme", user_id=str(user_id))
            assert await waits.list_waits_for_user(ctx, str(user_id)) == []
            scope = ReplyScope(conversation=str(chat_id))
            assert await waits.find_wait_by_scope(ctx, str(user_id), scope) is None


def test_processes_share_each_conversation(
    server: str, tmp_path: Path, expected: str, worker: ModuleType
) -> None:
    done = run_doomed(tmp_path, server)
    assert (done.stdout, done.stderr) == (expected, "")
    assert_each_once_in_order(tmp_path / "sent.jsonl")
    anyio.run(assert_nothing_left, server, worker)
    turns: dict[str, set[str]] = defaultdict(set)
    for line in (tmp_path / "turns").read_text().splitlines():
        pid, key = line.split()
        turns[key].add(pid)
    assert len(set.union(*turns.values())) == 3
    assert sum(len(pids) > 1 for pids in turns.values()) >= 5


def deaths() -> list[tuple[str, str]]:
    """Two processes die in each run: at every moment of a turn, in turns drawn with the seed."""
    draw = random.Random(os.environ["GREENTIC_SESSION_TEST_SEED"])
    moments = ["claimed", "saved", "sent", "settled"] * 3
    draw.shuffle(moments)
    drawn = [f"{moment} {draw.randint(1, 14)}" for moment in moments]
    return list(zip(drawn[::2], drawn[1::2], strict=True))


@pytest.mark.parametrize("plan", deaths(), ids=", ".join)
def test_two_of_three_processes_killed_in_a_turn(
    server: str, tmp_path: Path, plan: tuple[str, str], expected: str, worker: ModuleType
) -> None:
    done = run_doomed(tmp_path, server, *plan)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    assert done.stderr.count("a worker ended with -9, update ") == 2
    assert done.stderr.count("\n") == 2
    assert_each_once_in_order(tmp_path / "sent.jsonl")
    anyio.run(assert_nothing_left, server, worker)


def test_every_process_killed_and_run_again(
    server: str, tmp_path: Path, expected: str, worker: ModuleType
) -> None:
    log = tmp_path / "sent.jsonl"
    args = ("--url", server, "--sent", log, "--lease", 0.3, "--processes", 3)
    done = ended("telegram_worker.py", *args, "--die-at", 17, 18, 30)
    assert done.returncode == 1
    assert "no worker is left" in done.stderr
    assert log.read_bytes().count(b"\n") == 30
    assert output_of("telegram_worker.py", *args, "--die-at", 17, 18, 30) == expected
    assert_each_once_in_order(log)
    anyio.run(assert_nothing_left, server, worker)


def test_reader_killed_and_run_again(
    server: str, tmp_path: Path, expected: str, worker: ModuleType
) -> None:
    log = tmp_path / "sent.jsonl"
    args = ("--url", server, "--sent", log, "--lease", 0.3, "--processes", 3)
    with started("telegram_worker.py", *args, "--pace", 10) as reader:
        wait_for_lines(log, 12, reader)
        reader.kill()
        # Its workers are still in their turns.
        assert output_of("telegram_worker.py", *args) == expected
    assert_each_once_in_order(log)
    anyio.run(assert_nothing_left, server, worker)


@pytest.mark.parametrize("args", [("--sent", "log"), ("--url", "redis://localhost")])
def test_processes_need_what_they_can_share(args: tuple[str, str]) -> None:
    done = ended("telegram_worker.py", "--processes", 2, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "what they can share: --url redis://… and --sent FILE" in done.stderr
