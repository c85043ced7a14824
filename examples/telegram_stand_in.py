"""Stands in for Telegram: the objects of its Bot API, its deliveries, and a gateway for replies.

``telegram_worker.py`` runs on it. A real bot gets updates by a webhook and sends replies by HTTP.
"""

from __future__ import annotations

import argparse
import heapq
import operator
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import msgspec

from greentic_session import SessionKey  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

LOOK_AHEAD: Final = 8  # early updates that may wait for a late one


class User(msgspec.Struct, frozen=True):
    """The sender. This and the next four are the part of the Bot API that is used here."""

    id: int
    first_name: str


class Chat(msgspec.Struct, frozen=True):
    """The chat of a message. Only groups have a title."""

    id: int
    title: str = "private chat"


class Message(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A message. A sticker or a photo has no text."""

    chat: Chat
    sender: User | None = None
    text: str = ""


class CallbackQuery(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A press on a button under an earlier message."""

    sender: User
    message: Message | None = None
    data: str = ""


class Update(msgspec.Struct, frozen=True):
    """An update. Of kinds that the flow does not use, only the number is read."""

    update_id: int
    message: Message | None = None
    callback_query: CallbackQuery | None = None


class Sent(msgspec.Struct, frozen=True):
    """A reply to the gateway, named by session key, step and SHA-256."""

    name: tuple[SessionKey, int, str]
    chat_id: int
    text: str


class Gateway:
    """Stands in for Telegram and deduplicates: accepts each reply once.

    :param log: append-only file of sent replies. It outlives the process, and several processes may
        share it (POSIX only). ``None`` keeps the replies in memory.
    :param die_at: numbers of log lines. The process that writes one of them is killed with SIGKILL.
    """

    def __init__(self, log: Path | None = None, die_at: Sequence[int] = ()) -> None:
        self.sent: dict[tuple[SessionKey, int, str], Sent] = {}
        self._log = log
        self._read_to = 0
        self._die_at = die_at

    def send(self, *replies: Sent) -> None:
        """Send the replies that are not in the log. Without replies, only read the log."""
        if self._log is None:
            self._note(replies)
            return
        import fcntl  # noqa: PLC0415 - not everywhere, and not needed without a file

        with self._log.open("a+b", buffering=0) as log:  # unbuffered: a reply is one write(2)
            fcntl.flock(log, fcntl.LOCK_EX)  # until the file is closed, which a kill does too
            log.seek(self._read_to)
            whole, newline, torn = log.read().rpartition(b"\n")
            self._read_to += len(whole + newline)
            if torn:  # its writer was killed half way, so it does not count as sent
                log.truncate(self._read_to)
            self._note(msgspec.json.Decoder(Sent).decode_lines(whole))
            for reply in self._note(replies):
                line = msgspec.json.encode(reply) + b"\n"
                if log.write(line) != len(line):
                    raise OSError(f"short write, a line does not fit in {self._log}")
                if len(self.sent) in self._die_at:  # sent, and the turn is not over
                    os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, replies: Iterable[Sent]) -> list[Sent]:
        """Record replies and return those that are new."""
        return [reply for reply in replies if self.sent.setdefault(reply.name, reply) is reply]


def in_sequence(updates: Iterable[Update]) -> Iterator[Update]:
    """Yield updates in order as far as ``LOOK_AHEAD`` allows.

    Repeats and late updates are yielded at once.
    """
    early: list[tuple[int, int, Update]] = []
    following = 0
    for count, update in enumerate(updates):
        heapq.heappush(early, (update.update_id, count, update))
        # The very first number is unknown, so the buffer fills up first.
        while early and (early[0][0] <= following or len(early) > LOOK_AHEAD):
            number, _, ready = heapq.heappop(early)
            following = max(following, number + 1)
            yield ready
    yield from (update for _, _, update in sorted(early))


@asynccontextmanager
async def worker_processes(command: Sequence[str], count: int) -> AsyncGenerator[None]:
    """Run worker processes that take turns. They end with this block, or with this process."""
    living = count

    async def watch(process: anyio.abc.Process) -> None:
        nonlocal living
        end = f"ended with {await process.wait()}, its turns return when their leases expire"
        living -= 1
        print(f"a process {end}: {living} of {count} are left", file=sys.stderr, flush=True)
        if not living:
            raise RuntimeError("no worker is left")

    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(
                await anyio.open_process(command, stdout=None, stderr=None)
            )
            for _ in range(count)
        ]
        async with anyio.create_task_group() as tasks:
            for process in processes:
                tasks.start_soon(watch, process)
            yield
            tasks.cancel_scope.cancel()


def report(
    gateway: Gateway,
    updates: Sequence[Update],
    conversations: Iterable[tuple[Chat, User, SessionKey]],
) -> str:
    """Return all replies sent, by conversation. The result is the same for every run."""
    gateway.send()
    lines: list[str] = []
    for chat, user, key in sorted(conversations, key=lambda one: (one[0].id, one[1].id)):
        lines.append(f"{chat.title}, {user.first_name}:")
        lines += [f"  {sent.text}" for sent in gateway.sent.values() if sent.name[0] == key]
    ids = [update.update_id for update in updates]
    first = list(dict.fromkeys(ids))
    late = sum(map(operator.lt, first, accumulate(first, max)))
    counts = f"{len(ids)} deliveries, {len(ids) - len(first)} repeats, {late} out of order"
    return "\n".join([*lines, f"{counts}; {len(gateway.sent)} messages sent"])


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="An onboarding bot on recorded Telegram updates.")
    option = parser.add_argument
    recorded = Path(__file__).with_name("telegram_updates.jsonl")
    option("--url", default="memory://", help="session store (%(default)s)")
    option("--updates", type=Path, default=recorded, help="file of updates")
    option("--sent", type=Path, help="log of sent messages, kept between runs")
    option("--workers", type=int, choices=range(1, 65), default=4, metavar="N", help="per process")
    option("--processes", type=int, choices=range(1, 65), default=1, metavar="M")
    option("--lease", type=float, default=3, help="lease of a turn, in s")
    option("--die-at", type=int, nargs="+", default=(), metavar="N", help="--sent lines to die at")
    option("--pace", type=float, default=0, help="pause between updates, in ms")
    option("--work", action="store_true", help=argparse.SUPPRESS)  # as one of the processes
    args = parser.parse_args()
    if args.processes > 1 and (args.url.startswith("memory:") or args.sent is None):
        parser.error("processes need what they can share: --url redis://… and --sent FILE")
    return args
