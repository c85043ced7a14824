"""An onboarding bot: updates become messages in an inbox, and any worker handles them.

Reads Telegram ``Update`` objects, one a line, as a webhook gets them: some twice, some out of
order, many people at once. Asks each person for a name, an e-mail address and a plan. To run it::

    python telegram_worker.py
    python telegram_worker.py --url redis://localhost --sent /tmp/1 --pace 20
    python telegram_worker.py --url redis://localhost/1 --sent /tmp/3 --processes 3 --die-at 20

The second command may be killed at any moment and started again. The third runs three processes
with four workers each, and one process is killed in the middle of a turn. All three print the same.

* Exactly once: the inbox knows an admitted update for two days, and drops repeats. One worker at a
  time has the turn of a conversation. The next state is saved once for each update.
* In order: a conversation's updates are handled in the order of admission, one at a time.
* At least once: a reply is saved with the state, and sent afterwards. If a worker is killed in
  between, the next worker sends it again. Only the receiver can drop the repeat. The gateway does
  so, by session key, step and SHA-256 of the reply. Telegram's ``sendMessage`` takes no such name.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final, cast

import anyio
import msgspec
import telegram_stand_in as telegram
from msgspec.structs import replace

from greentic_session import SessionKey, TenantCtx, create_session_store
from greentic_session.flows import End, FlowMessage, FlowRuntime, Pause, Reply
from greentic_session.keys import telegram_update_to_session_key
from greentic_session.ordering import Admitted, InboxLimits, SessionInbox, release_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greentic_session import AsyncSessionStore

    Inbox = SessionInbox["Onboarding"]
    Store = AsyncSessionStore["Onboarding"]

BOT_ID: Final = 7012345678
BOT_NAME: Final = "acme_welcome_bot"
TENANT: Final = TenantCtx(tenant_id="acme")
LOOK_AGAIN_SECS: Final = 0.05  # poll interval for mailboxes that still have messages
# Telegram repeats an update for a day, so the inbox has to remember ids for longer. After a week
# without updates Telegram restarts their numbers at random, so sessions must expire before that.
TTL_SECS: Final = 2 * 24 * 3600
EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]{2,}")
PLANS: Final = ("basic", "pro")


class Said(msgspec.Struct, frozen=True):
    """Text that a person sent to this bot: the inbox message."""

    update_id: int
    chat: telegram.Chat
    user: telegram.User
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

    name: str = ""
    email: str = ""


def said_in(update: telegram.Update) -> Said | None:
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


class Bot(FlowRuntime[Onboarding]):
    """Runs the flow of each conversation. Any number of bots run on the same store."""

    def __init__(self, store: Store, inbox: Inbox, gateway: telegram.Gateway) -> None:
        super().__init__(store, inbox)
        self.gateway = gateway

    async def step(self, message: FlowMessage[Onboarding]) -> Pause[Onboarding] | End | None:
        """Return the state after an update, and the reply."""
        said = msgspec.json.decode(message.mail.payload, type=Said)
        session = message.session
        if session is None:
            if said.text != "/start":
                return None  # no conversation, and the update does not start one
            session = message.start("onboarding", "new", Onboarding(), ttl_secs=TTL_SECS)
        node, known, text = respond(session.cursor.node_id, session.context, said)
        if not text:
            return Pause(session=session)
        replies = ({"chat": said.chat.id, "text": text},)
        if node == "done":
            return End(replies=replies)
        return Pause(session=replace(session.advance(node), context=known), replies=replies)

    async def send(self, reply: Reply) -> None:
        """Send a reply. The gateway drops repeats."""
        name = (reply.key, reply.entry.seq, reply.entry.payload_sha256.hex())
        payload = cast("dict[str, object]", reply.payload)
        self.gateway.send(telegram.Sent(name, cast("int", payload["chat"]), str(payload["text"])))


async def admit(inbox: Inbox, said: Said) -> Admitted:
    """Put an update into its conversation's mailbox, once. Afterwards it may be confirmed."""
    mail = msgspec.json.encode(said)
    return await inbox.admit(said.key, str(said.update_id), mail, ctx=said.owner)


async def run(bot: Bot, updates: Sequence[telegram.Update], pace: float = 0) -> str:
    """Deliver all updates, wait until they are handled, and return all replies sent."""
    people: dict[tuple[int, int], Said] = {}
    for said in filter(None, map(said_in, telegram.in_sequence(updates))):
        people[said.chat.id, said.user.id] = said
        await admit(bot.inbox, said)
        await anyio.sleep(pace)
    for said in people.values():
        # The inbox knows this id, so the repeat only reports how many messages are left.
        while (await admit(bot.inbox, said)).waiting:  # noqa: ASYNC110 - handled by any process
            await anyio.sleep(LOOK_AGAIN_SECS)
    async for letter in bot.inbox.dead_letters():
        print(f"dead letter: {letter}", file=sys.stderr, flush=True)
    talks = [(said.chat, said.user, said.key) for said in people.values()]
    report: str = telegram.report(bot.gateway, updates, talks)
    return report


async def main() -> None:
    """Run from the command line."""
    args = telegram.arguments()
    updates = msgspec.json.Decoder(telegram.Update).decode_lines(args.updates.read_bytes())
    gateway = telegram.Gateway(args.sent, args.die_at)
    limits = InboxLimits(events_ttl_secs=TTL_SECS)
    async with create_session_store(args.url, context_type=Onboarding) as store:
        bot = Bot(store, SessionInbox(store, TENANT, lease=args.lease, limits=limits), gateway)
        if args.work:
            async with release_on_sigterm(), bot.working(args.workers):
                await anyio.wait_readable(sys.stdin)  # closed when the parent process ends
            return
        taking_turns = (
            bot.working(args.workers)
            if args.processes == 1
            else telegram.worker_processes((sys.executable, *sys.argv, "--work"), args.processes)
        )
        # Innermost. On SIGTERM, admission ends first, and then the workers release their turns.
        async with taking_turns, release_on_sigterm() as termination:
            print(await run(bot, updates, args.pace / 1000))
    if termination.signal is not None:
        sys.exit(128 + termination.signal)


if __name__ == "__main__":
    anyio.run(main)
