"""An approval: two people press a button at the same moment, and only one press counts.

A request pauses its flow under the :class:`ReplyScope` of its message. The flow stays paused until
a press arrives or the wait expires. A wait belongs to one user. Here that user is the desk, a
service user of the team, and not the person that presses. Each press resumes the desk's flow, on
any worker::

    python examples/approval.py
    python examples/approval.py --url redis://localhost --rounds 100

A press during another press's turn gets :class:`WaitClaimedError`. A press after that turn gets
:class:`WaitNotFoundError`, and a repeated press gets :class:`DuplicateEventError`. After the turn,
the session itself stores the name of the approver.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Final

import anyio
import msgspec
from msgspec.structs import replace

from greentic_session import (
    AsyncSessionStore,
    DuplicateEventError,
    LeaseLostError,
    OutcomeUnknownError,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitClaimedError,
    WaitNotFoundError,
    WaitRegistry,
    create_session_store,
    new_session_key,
)

DESK_ID: Final = "deployment-desk"
DESK: Final = TenantCtx(tenant_id="acme", team_id="platform", user_id=DESK_ID)
TTL_SECS: Final = 3600
LOOK_AGAIN_SECS: Final = 0.01


class Deployment(msgspec.Struct, frozen=True):
    """The session's context: a deployment that needs approval."""

    service: str
    approved_by: str = ""


class Worker:
    """Sends requests to the channel and handles presses. Any number of workers share a store."""

    def __init__(self, store: AsyncSessionStore[Deployment]) -> None:
        self.decided = 0
        self._store = store
        self._waits = WaitRegistry(store)

    async def ask(self, service: str, ttl_secs: float = TTL_SECS) -> SessionKey:
        """Pause a flow until a press approves it. The session expires if there is none in time."""
        request = new_session_key()
        session = Session(
            key=request,
            cursor=SessionCursor(flow_id="deployment", node_id="approval"),
            meta=SessionMeta.of(DESK),
            context=Deployment(service),
        )
        await self._waits.register_wait(DESK, DESK_ID, scope_of(request), session, ttl_secs)
        return request

    async def press(
        self, request: SessionKey, person: str, looking: anyio.Event | None = None
    ) -> str:
        """Handle a press on the button and return the answer for the person.

        :param looking: set when this worker has claimed the flow.
        """
        press_id = f"press of {person}"  # the press's id in the channel, which may deliver it twice
        while True:
            try:
                async with self._waits.resume(
                    DESK, DESK_ID, scope_of(request), event_id=press_id, lease=5
                ) as turn:
                    if looking is not None:
                        looking.set()
                    await anyio.sleep(0.005)  # stands for a permission check
                    deployment = replace(turn.session.context, approved_by=person)
                    await turn.complete(replace(turn.session.advance("deploy"), context=deployment))
                    self.decided += 1
                    return "approved"
            except (WaitClaimedError, LeaseLostError, OutcomeUnknownError):
                # Another worker has the flow, or the outcome of this one's write is unknown. Retry.
                await anyio.sleep(LOOK_AGAIN_SECS)
            except (WaitNotFoundError, DuplicateEventError):
                found = await self._store.get(request, ctx=DESK)
                if found is None:
                    return "too late"
                winner = found.session.context.approved_by
                return "approved" if winner == person else f"already approved by {winner}"


def scope_of(request: SessionKey) -> ReplyScope:
    """Return where replies to a request are anchored: at its message in the channel."""
    return ReplyScope(conversation="#deployments", reply_to=request)


async def play(store: AsyncSessionStore[Deployment], second: str, when: str) -> Counter[str]:
    """Let Ada and a second person (or Ada again) press on two workers, and count the answers."""
    one, other = Worker(store), Worker(store)
    request = await one.ask("billing 4.2")
    looking, told = anyio.Event(), anyio.Event()
    answers: Counter[str] = Counter()

    async def press(worker: Worker, person: str, after: anyio.Event | None = None) -> None:
        if after is not None:
            await after.wait()
        answers[await worker.press(request, person, looking)] += 1
        told.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(press, one, "Ada")
        tasks.start_soon(press, other, second, {"during": looking, "after": told}.get(when))
    found = await store.get(request, ctx=DESK)
    winner = found.session.context.approved_by if found is not None else "nobody"
    return Counter(
        {
            "approved once": one.decided + other.decided == 1,
            "answered approved": answers["approved"],
            "answered already approved": answers[f"already approved by {winner}"],
        }
    )


async def run(store: AsyncSessionStore[Deployment], rounds: int) -> str:
    """Play every case and return a summary, which is the same for every run."""
    cases = {
        "Ada and Grace press at the same moment": ("Grace", "at once"),
        "Grace presses during Ada's turn": ("Grace", "during"),
        "Grace presses after Ada's turn": ("Grace", "after"),
        "Ada's press comes twice at the same moment": ("Ada", "at once"),
        "Ada's press comes again after her turn": ("Ada", "after"),
    }
    lines: list[str] = []
    for title, (second, when) in cases.items():
        counts: Counter[str] = Counter(requests=rounds)
        for _ in range(rounds):
            counts += await play(store, second, when)
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        lines.append(f"{title}: {told}")
    worker = Worker(store)
    request = await worker.ask("search 1.0", ttl_secs=0.05)
    await anyio.sleep(0.06)
    lines.append(f"No press in time: Ada's press is answered {await worker.press(request, 'Ada')}")
    return "\n".join(lines)


async def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Approvals: the first press counts.")
    parser.add_argument("--url", default="memory://", help="session store (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each case (%(default)s)")
    args = parser.parse_args()
    async with create_session_store(args.url, context_type=Deployment) as store:
        print(await run(store, args.rounds))


if __name__ == "__main__":
    anyio.run(main)
