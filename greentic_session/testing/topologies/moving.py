"""Migration of one slot from one master to another while the cluster serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from .node import at_once, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from .node import Node

__all__ = ["Step", "move_slot", "move_slot_atomically"]

Step = Literal["importing", "migrating", "key moved", "emptied", "taken", "given"]
"""The step that has just finished.

* ``importing``: the new owner expects the slot.
* ``migrating``: the old owner redirects requests for absent keys (ASK).
* ``key moved``: one more key has moved. A script on two keys gets TRYAGAIN if only one has moved.
* ``emptied``: the old owner has no keys left.
* ``taken``: the new owner has taken the slot.
* ``given``: the old owner knows the new one (MOVED).
"""

_BATCH: Final = 100
_MIGRATE_MS: Final = 5000
_MOVED_SECS: Final = 40.0


async def move_slot(
    slot: int,
    source: Node,
    to: Node,
    *,
    masters: Iterable[Node],
    ids: Mapping[Node, str],
    between: Callable[[Step], Awaitable[None]] | None,
) -> int:
    """Move a slot key by key, as ``redis-cli --cluster reshard`` does.

    :param masters: the masters that are notified of the new owner.
    :param ids: the cluster's id of each node.
    :param between: callback after each step.
    :return: number of keys moved.
    :raises RefusedError: if a node refuses a step.
    """

    async def done(step: Step) -> None:
        if between is not None:
            await between(step)

    if source is to:
        return 0
    moved = 0
    await to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    await done("importing")
    await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
    await done("migrating")
    while True:
        names: list[bytes] = await source.ask("CLUSTER", "GETKEYSINSLOT", slot, _BATCH)
        if not names:
            break
        for name in names:
            told: bytes = await source.ask("MIGRATE", "127.0.0.1", to.port, name, 0, _MIGRATE_MS)
            if told == b"OK":  # NOKEY: it was deleted or expired meanwhile
                moved += 1
            await done("key moved")
    await done("emptied")
    # The new owner comes first. If it came last, the slot would briefly have no owner.
    await to.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
    await done("taken")
    await source.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
    await done("given")
    rest = [master for master in masters if master is not source and master is not to]
    await at_once(master.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to]) for master in rest)
    return moved


async def move_slot_atomically(slot: int, source: Node, to: Node, to_id: str) -> None:
    """Move a slot in one step (CLUSTER MIGRATESLOTS, Valkey 9).

    :param to_id: the cluster's id of the new owner.
    :raises RefusedError: if the server does not support the command.
    :raises RuntimeError: if the move fails, or has not ended within 40 s.
    """
    if source is to:
        return
    await source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to_id)
    states: list[str] = []

    async def has_ended() -> bool:
        moves: list[list[Any]] = await source.ask("CLUSTER", "GETSLOTMIGRATIONS")
        latest = moves[0]  # the newest comes first
        fields = dict(zip(latest[::2], latest[1::2], strict=True))
        states.append(str(fields[b"state"], "ascii"))
        return states[-1] in ("success", "failed", "canceled")

    await until(has_ended, secs=_MOVED_SECS, why=lambda: states[-1])
    if states[-1] != "success":
        raise RuntimeError(f"moving slot {slot} ended as {states[-1]}")
