"""An onboarding bot: several workers, one store, each reply exactly once.

Reads Telegram ``Update`` objects, one a line, as a webhook gets them: some twice, some out of
order, many people at once. Asks each person for a name, an e-mail address and a plan::

    python examples/telegram_worker.py
    python examples/telegram_worker.py --url redis://localhost --sent /tmp/sent.jsonl --pace 20

Kill the second one at any moment and start it again: in the end it prints what the first prints.

* What a person said, the next question, and the reply that has to go out (``pending``) are one
  session, written by one compare-and-set: after a kill all of it is there, or nothing.
* The session holds the newest ``update_id`` that is part of it. An update counts only if it is
  newer, and only after its predecessor in the conversation. So it does not matter which worker or
  process takes it, or how often: nobody is asked twice.
* A reply goes out after it is committed, and the conversation goes on after the reply is
  acknowledged (``pending`` cleared). Whoever opens the session next, even for an update that turns
  out to be a repeat, first sends what is pending. A bot confirms an update to Telegram when all
  this is done, and until then Telegram repeats it (here: the file is read again): nobody is
  forgotten.

One gap is left. Whoever is killed between sending and acknowledging leaves a pending reply that was
sent, and the next worker sends it again; so does one that looks in just then. No store can close
this gap, only the receiver, by refusing what it has. :class:`Gateway` does, by session key, step
and SHA-256 of the reply (the step's outbox entry), so here each arrives exactly once. Telegram's
``sendMessage`` takes no such name: straight to Telegram it is at least once.
"""

from __future__ import annotations

import argparse
import heapq
import operator
import re
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from msgspec.structs import replace

from greentic_session import (
    AsyncSessionStore,
    CasConflictError,
    OutcomeUnknownError,
    Session,
    SessionCursor,
    SessionExistsError,
    SessionKey,
    SessionMeta,
    TenantCtx,
    create_session_store,
)
from greentic_session.keys import telegram_update_to_session_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream

BOT_ID: Final = 7012345678
BOT_NAME: Final = "acme_welcome_bot"
LOOK_AHEAD: Final = 8  # how many early updates may wait for a late one
# Telegram repeats an update for a day, so a session must live longer to know it again; and after a
# week without updates it numbers them anew, so by then no session may be left.
TTL_SECS: Final = 2 * 24 * 3600
EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]{2,}")
PLANS: Final = ("basic", "pro")


class User(msgspec.Struct, frozen=True):
    """Who wrote. This and the next four: the part of the Bot API that is used here."""

    id: int
    first_name: str


class Chat(msgspec.Struct, frozen=True):
    """Where it was written; only groups have a title."""

    id: int
    title: str = "private chat"


class Message(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A message; a sticker or a photo has no text."""

    chat: Chat
    sender: User | None = None
    text: str = ""


class CallbackQuery(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """A button under an earlier message was pressed."""

    sender: User
    message: Message | None = None
    data: str = ""


class Update(msgspec.Struct, frozen=True):
    """What Telegram delivers; of the kinds that are not for the flow only the number is read."""

    update_id: int
    message: Message | None = None
    callback_query: CallbackQuery | None = None


class Said(msgspec.Struct, frozen=True):
    """What a person said to this bot, and what came before it in the same conversation."""

    update_id: int
    chat: Chat
    user: User
    text: str
    previous_id: int = 0
    previous_done: anyio.Event = msgspec.field(default_factory=anyio.Event)
    done: anyio.Event = msgspec.field(default_factory=anyio.Event)

    @property
    def key(self) -> SessionKey:
        """The session of this person in this chat."""
        return telegram_update_to_session_key(BOT_ID, self.chat.id, self.user.id)


class Onboarding(msgspec.Struct, frozen=True, omit_defaults=True):
    """The session's context; the node is in its cursor."""

    last_update_id: int = 0
    name: str = ""
    email: str = ""
    plan: str = ""
    pending: str = ""


class Sent(msgspec.Struct, frozen=True):
    """A reply as the gateway gets it, named by session key, step and SHA-256."""

    name: tuple[SessionKey, int, str]
    chat_id: int
    text: str


class Gateway:
    """Stands in for Telegram, with a memory: takes each reply once.

    :param log: append-only file of what was sent, which outlives the process and may be shared by
        several (POSIX only); ``None`` keeps it in memory.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.sent: dict[tuple[SessionKey, int, str], Sent] = {}
        self._log = log
        self._read_to = 0

    def send(self, *replies: Sent) -> None:
        """Send those that nobody sent before; without any, only read what others sent."""
        if self._log is None:
            self._note(replies)
            return
        import fcntl  # noqa: PLC0415 - not everywhere, and not needed without a file

        with self._log.open("a+b", buffering=0) as log:  # unbuffered: a reply is one write(2)
            fcntl.flock(log, fcntl.LOCK_EX)  # until closed, be it by a kill
            log.seek(self._read_to)
            whole, newline, torn = log.read().rpartition(b"\n")
            self._read_to += len(whole + newline)
            if torn:  # its writer was killed half way: not sent
                log.truncate(self._read_to)
            self._note(msgspec.json.Decoder(Sent).decode_lines(whole))
            for reply in self._note(replies):
                line = msgspec.json.encode(reply) + b"\n"
                if log.write(line) != len(line):
                    raise OSError(f"no room for a whole line in {self._log}")

    def _note(self, replies: Iterable[Sent]) -> list[Sent]:
        """Return those that are new."""
        return [reply for reply in replies if self.sent.setdefault(reply.name, reply) is reply]


def said_in(update: Update) -> Said | None:
    """Return what was said to this bot, by text or button; ``None`` for all other updates."""
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
    """Return the next node, what is known there, and the reply. A function, so without effects."""
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
        welcome = f"Welcome, {known.name}! {known.email} is on the {text.lower()} plan."
        return "done", replace(known, plan=text.lower()), welcome
    if node == "plan":
        return node, known, f"Please choose {' or '.join(PLANS)}."
    return node, known, ""  # before the first /start, or after the last answer


def step(session: Session[Onboarding], said: Said) -> Session[Onboarding]:
    """Return the session with an update taken in and its reply pending."""
    node, known, reply = respond(session.cursor.node_id, session.context, said)
    if reply:
        # The entry names the reply: with its update, for the same words may go out at the same
        # step of a later session. Older entries are acknowledged and need no place any more.
        payload = f"{said.update_id} {reply}".encode()
        session, _ = replace(session, outbox=()).with_outbox(payload)
        session = session.advance(node)
    return replace(session, context=replace(known, last_update_id=said.update_id, pending=reply))


async def advance(store: AsyncSessionStore[Onboarding], gateway: Gateway, said: Said) -> None:
    """Look at the session and do the next thing that this update asks for."""
    ctx = TenantCtx(tenant_id="acme", user_id=str(said.user.id))
    mine = store.scoped(ctx)
    found = await mine.get(said.key)
    newest = found.session.context.last_update_id if found is not None else 0
    if newest < said.previous_id and not said.previous_done.is_set():  # another worker has it
        await said.previous_done.wait()
    elif found is None:
        fresh = Session(
            key=said.key,
            cursor=SessionCursor(flow_id="onboarding", node_id="new"),
            meta=SessionMeta.of(ctx),
            context=Onboarding(),
            ttl_secs=TTL_SECS,
        )
        await mine.create(step(fresh, said))
    elif reply := found.session.context.pending:
        entry = found.session.outbox[-1]
        name = (said.key, entry.seq, entry.payload_sha256.hex())
        gateway.send(Sent(name, said.chat.id, reply))
        known = replace(found.session.context, pending="")
        await mine.update_cas(replace(found.session, context=known), found.cas)
    elif newest < said.update_id:
        await mine.update_cas(step(found.session, said), found.cas)
    else:
        said.done.set()  # part of the session, by whichever worker, and answered


async def work(
    store: AsyncSessionStore[Onboarding], gateway: Gateway, queue: MemoryObjectReceiveStream[Said]
) -> None:
    """Take updates from the queue until it is closed, and see each one through."""
    async for said in queue:
        while not said.done.is_set():
            # Who lost a race, or cannot tell whether it won, looks again.
            with suppress(CasConflictError, SessionExistsError, OutcomeUnknownError):
                await advance(store, gateway, said)


def in_sequence(updates: Iterable[Update]) -> Iterator[Update]:
    """Yield each update once, and in order as far as ``LOOK_AHEAD`` allows."""
    seen: set[int] = set()
    early: list[tuple[int, Update]] = []
    following = 0
    for update in updates:
        if update.update_id in seen:
            continue
        seen.add(update.update_id)
        heapq.heappush(early, (update.update_id, update))
        # Which number is the very first is not known, so at the start the buffer fills.
        while early and (early[0][0] <= following or len(early) > LOOK_AHEAD):
            number, ready = heapq.heappop(early)
            following = max(following, number + 1)
            yield ready
    yield from (update for _, update in sorted(early))


def in_conversation(updates: Iterable[Update]) -> Iterator[Said]:
    """Yield what is for the flow, each with what came before it in its conversation."""
    latest: dict[SessionKey, Said] = {}
    for said in map(said_in, in_sequence(updates)):
        if said is None:
            continue
        if (last := latest.get(said.key)) is None:
            latest[said.key] = said
        elif last.update_id < said.update_id:
            latest[said.key] = replace(said, previous_id=last.update_id, previous_done=last.done)
        else:
            continue  # so late that its conversation has gone on without it
        yield latest[said.key]


async def run(
    store: AsyncSessionStore[Onboarding],
    gateway: Gateway,
    updates: Sequence[Update],
    workers: int = 4,
    pace_secs: float = 0,
) -> str:
    """See all updates through; return who was sent what, which is the same for every run."""
    people: dict[tuple[int, int], Said] = {}
    send, take = anyio.create_memory_object_stream[Said](workers)
    with send, take:
        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(work, store, gateway, take)
            for said in in_conversation(updates):
                people[said.chat.id, said.user.id] = said
                await send.send(said)
                await anyio.sleep(pace_secs)
            send.close()
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="An onboarding bot on recorded Telegram updates.")
    recorded = Path(__file__).with_name("telegram_updates.jsonl")
    parser.add_argument("--url", default="memory://", help="session store (%(default)s)")
    parser.add_argument("--updates", type=Path, default=recorded, help="file of updates")
    parser.add_argument("--sent", type=Path, help="log of sent messages, kept between runs")
    parser.add_argument("--workers", type=int, choices=range(1, 65), default=4, metavar="N")
    parser.add_argument("--pace", type=float, default=0, help="pause between updates, in ms")
    args = parser.parse_args()
    updates = msgspec.json.Decoder(Update).decode_lines(args.updates.read_bytes())

    async def bot() -> str:
        async with create_session_store(args.url, context_type=Onboarding) as store:
            return await run(store, Gateway(args.sent), updates, args.workers, args.pace / 1000)

    print(anyio.run(bot))


if __name__ == "__main__":
    main()
