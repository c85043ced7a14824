"""Tests of the examples as programs: killed half way, and several at once."""

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

from greentic_session import TenantCtx, create_session_store
from greentic_session.ordering import SessionInbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"
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
# The example as a program whose processes are killed or stopped at chosen moments. Each line of the
# plan is `moment turn signal`. It applies to the first process that reaches that moment in that
# turn or a later one. A file makes sure that it applies once. Without a plan, each conversation
# rotates among the processes: a process that had one of the last two turns releases the turn.
DOOMED = """\
import importlib.util, os, sys
from contextlib import suppress
from pathlib import Path

import anyio

spec = importlib.util.spec_from_file_location("telegram_worker_example", os.environ["EXAMPLE"])
example = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = example
spec.loader.exec_module(example)
folder = Path(__file__).parent
plan = [line.split() for line in (folder / "plan").read_text().splitlines()]


def live_through(moment):
    turns = (folder / "turns").read_bytes().count(b"\\n")
    for number, (when, turn, what) in enumerate(plan):
        if when == moment and int(turn) <= turns:
            with suppress(FileExistsError), (folder / f"hit-{number}").open("x") as hit:
                hit.write(str(os.getpid()))
                hit.flush()
                os.kill(os.getpid(), int(what))


class Bot(example.Bot):
    async def handle(self, turn):
        last = folder / f"last-{turn.key}"
        pids = last.read_text().split() if last.exists() else []
        if not plan and str(os.getpid()) in pids[-2:]:
            await turn.release()
            return await anyio.sleep(0.01)  # while another of the processes takes it
        last.write_text(" ".join([*pids, str(os.getpid())]))
        with (folder / "turns").open("a") as log:
            log.write("turn\\n")
        live_through("taken")
        await super().handle(turn)
        live_through("ended")


class Gateway(example.telegram.Gateway):
    def send(self, *replies):
        if replies:
            live_through("saved")
        super().send(*replies)
        if replies:
            live_through("sent")


example.Bot, example.telegram.Gateway = Bot, Gateway
anyio.run(example.main)
"""


def program(name: str | Path, *args: object, **variables: str) -> tuple[list[str], dict[str, str]]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GREENTIC_SESSION_URL", "REDIS_URL")
    }
    # Warnings are errors in every process too. An example must leave nothing open.
    environment |= {"PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error", **variables}
    environment["PYTHONPATH"] = str(EXAMPLES)  # for programs that import an example
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


def started(name: str | Path, *args: object, **variables: str) -> subprocess.Popen[str]:
    command, environment = program(name, *args, **variables)
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
        time.sleep(0.001)  # the log is the only sign of the other process's progress


def assert_each_once_in_order(log: Path) -> None:
    """Check that the log has every flow's steps from 0 on, each once."""
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
    sys.modules[spec.name] = module  # its structs look up their annotations there
    sys.path.insert(0, str(EXAMPLES))  # an example may import its neighbour
    spec.loader.exec_module(module)
    sys.path.remove(str(EXAMPLES))
    yield module
    del sys.modules[spec.name]


def recorded_updates(worker: ModuleType) -> list[Any]:
    recorded = (EXAMPLES / "telegram_updates.jsonl").read_bytes()
    updates: list[Any] = msgspec.json.Decoder(worker.telegram.Update).decode_lines(recorded)
    return updates


@pytest.fixture
def server(valkey_url: str) -> str:
    """Yield a fresh namespace on the server."""
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


@pytest.mark.parametrize("processes", [1, 2])
def test_worker_ended_by_sigterm_leaves_no_lease(
    server: str, tmp_path: Path, processes: int, expected: str
) -> None:
    log = tmp_path / "sent.jsonl"
    # A lease that remained would delay the second run beyond the test's timeout.
    args = ("--url", server, "--sent", log, "--lease", 3600, "--processes", processes)
    with started("telegram_worker.py", *args, "--pace", 10) as worker:
        wait_for_lines(log, 9, worker)
        worker.terminate()
    assert worker.returncode == 128 + signal.SIGTERM
    assert output_of("telegram_worker.py", *args) == expected
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


def doomed(folder: Path, *plan: str) -> dict[str, str]:
    """Write the program with its plan, and return its environment variables."""
    (folder / "plan").write_text("\n".join(plan))
    (folder / "doomed.py").write_text(DOOMED)
    return {"EXAMPLE": str(EXAMPLES / "telegram_worker.py")}


def run_doomed(folder: Path, server: str, *plan: str) -> subprocess.CompletedProcess[str]:
    """Run three worker processes, some of which die as planned."""
    variables = doomed(folder, *plan)
    log = folder / "sent.jsonl"
    args = ("--url", server, "--sent", log, "--processes", 3)
    how = ("--lease", 0.3, "--workers", 2) if plan else ("--workers", 1)
    return ended(folder / "doomed.py", *args, *how, **variables)


async def assert_nothing_left(url: str, example: ModuleType) -> None:
    """Check that no session, message or dead letter is left."""
    async with create_session_store(url, context_type=example.Onboarding) as store:
        assert [found async for found in store.scan(TenantCtx(tenant_id="acme"))] == []
        inbox = SessionInbox(store, example.TENANT)
        assert [letter async for letter in inbox.dead_letters()] == []
        async with inbox.take("nobody", wait=0) as turn:
            assert turn is None


def test_processes_share_each_conversation(
    server: str, tmp_path: Path, expected: str, worker: ModuleType
) -> None:
    done = run_doomed(tmp_path, server)
    assert (done.stdout, done.stderr) == (expected, "")
    assert_each_once_in_order(tmp_path / "sent.jsonl")
    anyio.run(assert_nothing_left, server, worker)
    rounds = [log.read_text().split() for log in tmp_path.glob("last-*")]
    assert len(rounds) == 9
    assert {pid for pids in rounds for pid in pids} == set(max(rounds, key=len)[:3])
    for pids in rounds:
        assert all(len({*pids[at : at + 3]}) == len(pids[at : at + 3]) for at in range(len(pids)))


def deaths() -> list[tuple[str, str]]:
    """Return plans in which two processes die per run.

    They cover every moment of a turn, in turns that the seed chooses.
    """
    draw = random.Random(os.environ["GREENTIC_SESSION_TEST_SEED"])
    moments = ["taken", "saved", "sent", "ended"] * 3
    draw.shuffle(moments)
    drawn = [f"{moment} {draw.randint(1, 40)} {signal.SIGKILL:d}" for moment in moments]
    return list(zip(drawn[::2], drawn[1::2], strict=True))


@pytest.mark.parametrize("plan", deaths(), ids=", ".join)
def test_two_of_three_processes_killed_in_a_turn(
    server: str, tmp_path: Path, plan: tuple[str, str], expected: str, worker: ModuleType
) -> None:
    done = run_doomed(tmp_path, server, *plan)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    assert done.stderr.count("a process ended with -9, ") == 2
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


@pytest.mark.parametrize("moment", ["taken", "saved"])
def test_process_stopped_past_its_lease(
    server: str, tmp_path: Path, moment: str, expected: str, worker: ModuleType
) -> None:
    """Others end its turns. When it continues, it neither sends nor changes anything."""
    variables = doomed(tmp_path, f"{moment} 10 {signal.SIGSTOP:d}")
    log = tmp_path / "sent.jsonl"
    args = ("--url", server, "--sent", log, "--processes", 3, "--lease", 0.3)
    with started(tmp_path / "doomed.py", *args, **variables) as reader:
        wait_for_lines(log, MESSAGES, reader)
        os.kill(int((tmp_path / "hit-0").read_text()), signal.SIGCONT)
        outputs = reader.communicate(timeout=20)
    assert outputs == (expected, "")
    assert_each_once_in_order(log)
    anyio.run(assert_nothing_left, server, worker)


@pytest.mark.parametrize("args", [("--sent", "log"), ("--url", "redis://localhost")])
def test_processes_need_what_they_can_share(args: tuple[str, str]) -> None:
    done = ended("telegram_worker.py", "--processes", 2, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "what they can share: --url redis://… and --sent FILE" in done.stderr
