"""An onboarding bot: updates become messages in an inbox, and any worker handles them.

Reads Telegram ``Update`` objects, one a line, as a webhook gets them: some twice, some out of
order, many people at once. Asks each person for a name, an e-mail address and a plan. To run it::

    python telegram_worker.py
    python telegram_worker.py --url redis://localhost --sent /tmp/1 --pace 20
    python telegram_worker.py --url redis://localhost/1 --sent /tmp/3 --processes 3 --die-at 20

The second command may be killed at any moment and started again. The third runs three processes
with four workers each, and one process is killed in the middle of a turn. All three print the same.

* Exactly once: the inbox remembers the id of an admitted update for two days. If any process admits
  it again, the repeat is dropped. One worker at a time has the turn of a conversation. In one step,
  it saves the next state, removes the update and ends its turn.
* In order: a conversation's updates are handed out in the order of admission, one at a time. If a
  process is killed in its turn, its update stays at the head. Another worker gets it when the lease
  expires.
* At least once: a reply is sent after it was saved with the state (``pending``) and before the turn
  ends. If a worker is killed in between, it is unknown whether the reply was sent. The next worker
  sends it again before anything else. No store can close this gap. Only the receiver can, by
  refusing replies that it already has. :class:`Gateway` does so, by session key, step and SHA-256
  of the reply (the step's outbox entry), so each reply arrives exactly once here. Telegram's
  ``sendMessage`` takes no such name, so direct delivery to Telegram is at least once.
"""

from __future__ import annotations

import argparse
import heapq
import operator
import os
import re
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import anyio.abc
import msgspec
from msgspec.structs import replace

from greentic_session import (
    LeaseLostError,
    OutcomeUnknownError,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    create_session_store,
)
from greentic_session.keys import telegram_update_to_session_key
from greentic_session.ordering import (
    Admitted,
    InboxLimits,
    InboxTurn,
    SessionInbox,
    release_on_sigterm,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

BOT_ID: Final = 7012345678
BOT_NAME: Final = "acme_welcome_bot"
TENANT: Final = TenantCtx(tenant_id="acme")
LOOK_AHEAD: Final = 8  # early updates that may wait for a late one
LOOK_AGAIN_SECS: Final = 0.05  # poll interval for mailboxes that still have messages
# Telegram repeats an update for a day, so the inbox has to remember ids for longer. After a week
# without updates Telegram restarts their numbers at random, so sessions must expire before that.
TTL_SECS: Final = 2 * 24 * 3600
EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]{2,}")
PLANS: Final = ("basic", "pro")


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


class Said(msgspec.Struct, frozen=True):
    """Text that a person sent to this bot: the inbox message."""

    update_id: int
    chat: Chat
    user: User
    text: str

    @property
    def key(self) -> SessionKey:
        """The session of this person in this chat."""
        return telegram_update_to_session_key(BOT_ID, self.chat.id, self.user.id)

    @property
    def owner(self) -> TenantCtx:
        """The owner of that session."""
        return TenantCtx(tenant_id=TENANT.tenant_id, user_id=str(self.user.id))


class Onboarding(msgspec.Struct, frozen=True, omit_defaults=True):
    """The session's context. The flow's node is in the session's cursor."""

    last_update_id: int = 0
    name: str = ""
    email: str = ""
    pending: str = ""


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


def said_in(update: Update) -> Said | None:
    """Return the text that this bot was sent, typed or by button. Other updates give ``None``."""
    message, pressed = update.message, update.callback_query
    if pressed is not None and pressed.message is not None:
        message = replace(pressed.message, sender=pressed.sender, text=pressed.data)
    if message is None or message.sender is None:
        return None
    text = " ".join(message.text.split())
    if text.startswith("/"):
        text, _, addressee = text.partition(" ")[0].partition("@")
        if addressee not in ("", BOT_NAME):
            return None  # for another bot of the group
    return Said(update.update_id, message.chat, message.sender, text)


def respond(node: str, known: Onboarding, said: Said) -> tuple[str, Onboarding, str]:
    """Return the next node, the new context, and the reply. Has no side effects."""
    text = said.text
    if text == "/start":
        return "name", Onboarding(), f"Hi {said.user.first_name}! What shall we call you?"
    if text.startswith("/"):
        return node, known, "The only command I know is /start."
    if node == "name" and text:
        return "email", replace(known, name=text), f"Hello {text}. What is your e-mail address?"
    if node == "name":
        return node, known, "I can only read text. What shall we call you?"
    if node == "email" and EMAIL.fullmatch(text):
        return "plan", replace(known, email=text), f"Which plan, {' or '.join(PLANS)}?"
    if node == "email":
        return node, known, "That is not an e-mail address. Please try again."
    if node == "plan" and text.lower() in PLANS:
        plan = f"{known.email} is on the {text.lower()} plan."
        return "done", known, f"Welcome, {known.name}! {plan}"
    if node == "plan":
        return node, known, f"Please choose {' or '.join(PLANS)}."
    return node, known, ""


def step(session: Session[Onboarding], said: Said) -> Session[Onboarding]:
    """Return the session after an update, with its reply pending."""
    node, known, reply = respond(session.cursor.node_id, session.context, said)
    if reply:
        # The entry's hash names the reply. It includes the update's id, because a later session may
        # send the same words at the same step. Older entries were sent, so they are dropped.
        payload = f"{said.update_id} {reply}".encode()
        session, _ = session.without_outbox(session.cursor.outbox_seq).with_outbox(payload)
        session = session.advance(node)
    return replace(session, context=replace(known, last_update_id=said.update_id, pending=reply))


class Bot(NamedTuple):
    """Takes turns of any conversation. Any number of bots run on the same store."""

    inbox: SessionInbox[Onboarding]
    gateway: Gateway

    @asynccontextmanager
    async def working(self, workers: int) -> AsyncGenerator[None]:
        """Run that many workers while the block runs."""
        async with anyio.create_task_group() as tasks:
            for number in range(workers):
                tasks.start_soon(self._work, f"{os.getpid()}-{number}")
            yield
            tasks.cancel_scope.cancel()  # a turn in progress is released

    async def _work(self, name: str) -> None:
        while True:
            with suppress(LeaseLostError, OutcomeUnknownError):  # messages come again
                # One update a turn, so that removing the session at its end drops no /start behind
                # it.
                async with self.inbox.take(name, most=1) as turn:
                    await self.handle(turn)

    async def handle(self, turn: InboxTurn[Onboarding]) -> None:
        """Handle one update and end the turn."""
        said = msgspec.json.decode(turn.mail[0].payload, type=Said)
        session = turn.session
        if session is None:
            if said.text != "/start":
                await turn.finish()  # no conversation, and the update does not start one
                return
            session = Session(
                key=said.key,
                cursor=SessionCursor(flow_id="onboarding", node_id="new"),
                meta=SessionMeta.of(said.owner),
                context=Onboarding(),
                ttl_secs=TTL_SECS,
            )
        session = self._send_pending(session, said.chat)  # left by a worker that was killed
        if session.context.last_update_id < said.update_id:  # not saved by it and not too old
            session = step(session, said)
            await turn.commit(session, handled=0)
            session = self._send_pending(session, said.chat)
        if session.cursor.node_id == "done":
            await turn.remove()
        else:
            await turn.finish(session)

    def _send_pending(self, session: Session[Onboarding], chat: Chat) -> Session[Onboarding]:
        if reply := session.context.pending:
            entry = session.outbox[-1]
            name = (session.key, entry.seq, entry.payload_sha256.hex())
            self.gateway.send(Sent(name, chat.id, reply))
        return replace(session, context=replace(session.context, pending=""))


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


async def admit(inbox: SessionInbox[Onboarding], said: Said) -> Admitted:
    """Put an update into its conversation's mailbox, once. Afterwards it may be confirmed."""
    mail = msgspec.json.encode(said)
    return await inbox.admit(said.key, str(said.update_id), mail, ctx=said.owner)


async def run(
    inbox: SessionInbox[Onboarding], gateway: Gateway, updates: Sequence[Update], pace: float = 0
) -> str:
    """Deliver all updates, wait until they are handled, and return all replies sent.

    The result is the same for every run.
    """
    people: dict[tuple[int, int], Said] = {}
    for said in filter(None, map(said_in, in_sequence(updates))):
        people[said.chat.id, said.user.id] = said
        await admit(inbox, said)
        await anyio.sleep(pace)
    for said in people.values():
        # The inbox knows this id, so the repeat only reports how many messages are left.
        while (await admit(inbox, said)).waiting:  # noqa: ASYNC110 - handled by any process
            await anyio.sleep(LOOK_AGAIN_SECS)
    async for letter in inbox.dead_letters():
        print(f"dead letter: {letter}", file=sys.stderr, flush=True)
    gateway.send()
    lines: list[str] = []
    for _, said in sorted(people.items()):
        lines.append(f"{said.chat.title}, {said.user.first_name}:")
        lines += [f"  {sent.text}" for sent in gateway.sent.values() if sent.name[0] == said.key]
    ids = [update.update_id for update in updates]
    first = list(dict.fromkeys(ids))
    late = sum(map(operator.lt, first, accumulate(first, max)))
    counts = f"{len(ids)} deliveries, {len(ids) - len(first)} repeats, {late} out of order"
    return "\n".join([*lines, f"{counts}; {len(gateway.sent)} messages sent"])


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


async def main() -> None:
    """Run from the command line."""
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
    updates = msgspec.json.Decoder(Update).decode_lines(args.updates.read_bytes())
    gateway = Gateway(args.sent, args.die_at)
    async with create_session_store(args.url, context_type=Onboarding) as store:
        limits = InboxLimits(events_ttl_secs=TTL_SECS)
        bot = Bot(SessionInbox(store, TENANT, lease=args.lease, limits=limits), gateway)
        if args.work:
            async with release_on_sigterm(), bot.working(args.workers):
                await anyio.wait_readable(sys.stdin)  # closed when the parent process ends
            return
        taking_turns = (
            bot.working(args.workers)
            if args.processes == 1
            else worker_processes((sys.executable, *sys.argv, "--work"), args.processes)
        )
        # Innermost. On SIGTERM, admission ends first, and then the workers release their turns.
        async with taking_turns, release_on_sigterm() as termination:
            print(await run(bot.inbox, gateway, updates, args.pace / 1000))
    if termination.signal is not None:
        sys.exit(128 + termination.signal)


if __name__ == "__main__":
    anyio.run(main)
