"""An approval: two people press the button at the same moment; one wins, the other is told.

A request pauses its flow under the :class:`ReplyScope` of its message, until somebody presses or
its time is up. A wait belongs to one user. Here that is nobody who presses but the desk, a service
user of the team: each press resumes the desk's flow, on whichever worker takes it::

    python examples/approval.py
    python examples/approval.py --url redis://localhost --rounds 100

Who comes while another's press is looked into meets :class:`WaitClaimedError`, who comes later
:class:`WaitNotFoundError`, and a press that comes again :class:`DuplicateEventError`. From then on
the session itself says who approved.
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
    """What is to be approved; the session's context."""

    service: str
    approved_by: str = ""


class Worker:
    """Puts requests to the channel and takes presses, beside any number of others on a store."""

    def __init__(self, store: AsyncSessionStore[Deployment]) -> None:
        self.decided = 0
        self._store = store
        self._waits = WaitRegistry(store)

    async def ask(self, service: str, ttl_secs: float = TTL_SECS) -> SessionKey:
        """Pause a flow until somebody approves; when nobody does in time, it is gone."""
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
        """Take a press on the button; return what the person is told.

        :param looking: set when this worker has the flow.
        """
        press_id = f"press of {person}"  # the channel names a press, and may deliver it twice
        while True:
            try:
                async with self._waits.resume(
                    DESK, DESK_ID, scope_of(request), event_id=press_id, lease=5
                ) as turn:
                    if looking is not None:
                        looking.set()
                    await anyio.sleep(0.005)  # is this person allowed to?
                    deployment = replace(turn.session.context, approved_by=person)
                    await turn.complete(replace(turn.session.advance("deploy"), context=deployment))
                    self.decided += 1
                    return "approved"
            except (WaitClaimedError, LeaseLostError, OutcomeUnknownError):
                # Another worker has the flow, or what this one did is not known: look again.
                await anyio.sleep(LOOK_AGAIN_SECS)
            except (WaitNotFoundError, DuplicateEventError):
                found = await self._store.get(request, ctx=DESK)
                if found is None:
                    return "too late"
                winner = found.session.context.approved_by
                return "approved" if winner == person else f"already approved by {winner}"


def scope_of(request: SessionKey) -> ReplyScope:
    """Return where answers to a request are anchored: at its message in the channel."""
    return ReplyScope(conversation="#deployments", reply_to=request)


async def play(store: AsyncSessionStore[Deployment], second: str, when: str) -> Counter[str]:
    """Let Ada press, and somebody else or her again, on two workers; count what comes of it."""
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
            "told so": answers["approved"],
            "told who was first": answers[f"already approved by {winner}"],
        }
    )


async def run(store: AsyncSessionStore[Deployment], rounds: int) -> str:
    """Play every case; return what became of the requests, which is the same for every run."""
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
    lines.append(f"Nobody presses in time: then Ada is told {await worker.press(request, 'Ada')}")
    return "\n".join(lines)


async def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Approvals by whoever presses first.")
    parser.add_argument("--url", default="memory://", help="session store (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each case (%(default)s)")
    args = parser.parse_args()
    async with create_session_store(args.url, context_type=Deployment) as store:
        print(await run(store, args.rounds))


if __name__ == "__main__":
    anyio.run(main)
