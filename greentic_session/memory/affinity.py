"""Affinity in one process: the members of groups, and the placements of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

import msgspec
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from .._compat import override
from .._core.fencing import FencingCounter
from ..abc.affinity import (
    AffinityBackend,
    MemberRecord,
    MembershipOutcome,
    PlacementPage,
    PlacementRecord,
    rendezvous,
)
from ..abc.records import Verdict
from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from .expiry import Name

__all__ = ["MemoryAffinity"]

_PAGE: Final = 512


class _Member(msgspec.Struct, frozen=True, gc=False):
    """A member of a group.

    :ivar attempt: text that identifies the membership.
    :ivar fence: fencing token of the membership.
    :ivar ends_ms: when the lease ends, in milliseconds since the epoch.
    :ivar due: when the expiry index checks the member.
    """

    attempt: str
    fence: int
    ends_ms: int
    due: int


class _Placement(msgspec.Struct, frozen=True, gc=False):
    """The placement of a key.

    :ivar worker: the worker that the key was assigned to last, empty for none.
    :ivar pin: the worker that the key is pinned to, empty for none.
    :ivar ttl_ms: lifetime in milliseconds, which restarts at each use.
    :ivar expires_ms: when the placement expires, in milliseconds since the epoch.
    :ivar due: when the expiry index checks the placement.
    """

    worker: str
    pin: str
    ttl_ms: int
    expires_ms: int = 0
    due: int = 0


@final
class MemoryAffinity(AffinityBackend):
    """The steps of affinity. No step waits for I/O.

    :param clock: the clock of the store.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock_ms: Final[Callable[[], int]] = clock.now_ms
        self._latest_ms = 0
        self._members: Final[dict[str, dict[str, _Member]]] = {}
        self._placements: Final[dict[str, dict[str, _Placement]]] = {}
        self._member_expiry: Final = ExpiryIndex()
        self._placement_expiry: Final = ExpiryIndex()
        self._fencing: Final = FencingCounter()

    def sizes(self) -> dict[str, int]:
        """Return the numbers of members and placements."""
        return {
            "members": sum(map(len, self._members.values())),
            "placements": sum(map(len, self._placements.values())),
        }

    def pop_due(self, now_ms: int) -> bool:
        """Check one member or placement that may have expired.

        :returns: ``False`` if nothing is due.
        """
        return self._pop_due_placement(now_ms) or self._pop_due_member(now_ms)

    def forget_all(self) -> None:
        """Forget everything."""
        self._members.clear()
        self._placements.clear()
        self._member_expiry.clear()
        self._placement_expiry.clear()

    # --- members -----------------------------------------------------------------------------

    @override
    async def join(self, group: str, worker: str, attempt: str, lease_ms: int) -> MembershipOutcome:
        now_ms = self._now_ms()
        member = self._members.get(group, {}).get(worker)
        ends_ms = now_ms + lease_ms
        if member is None or now_ms >= member.ends_ms:
            fence = self._fencing.issue(now_ms)
        elif member.attempt == attempt:
            fence, ends_ms = member.fence, max(ends_ms, member.ends_ms)
        else:
            return MembershipOutcome(Verdict.CLAIMED, ends_ms=member.ends_ms)
        return self._join_or_renew(group, worker, _Member(attempt, fence, ends_ms, 0), now_ms)

    @override
    async def renew(
        self, group: str, worker: str, attempt: str, lease_ms: int
    ) -> MembershipOutcome:
        now_ms = self._now_ms()
        member = self._member(group, worker, attempt, now_ms)
        if member is None:
            return MembershipOutcome(Verdict.LOST)
        member = replace(member, ends_ms=max(now_ms + lease_ms, member.ends_ms))
        return self._join_or_renew(group, worker, member, now_ms)

    @override
    async def leave(self, group: str, worker: str, attempt: str) -> bool:
        member = self._member(group, worker, attempt, self._now_ms())
        if member is None:
            return False
        self._member_expiry.discard((group, worker), member.due)
        self._forget_member(group, worker)
        return True

    @override
    async def members(self, group: str) -> list[MemberRecord]:
        now_ms = self._now_ms()
        return [
            MemberRecord(worker, member.fence, member.ends_ms)
            for worker, member in self._members.get(group, {}).items()
            if now_ms < member.ends_ms
        ]

    # --- placements --------------------------------------------------------------------------

    @override
    async def assign(self, group: str, key: str, ttl_ms: int) -> PlacementRecord | None:
        now_ms = self._now_ms()
        at = self._live(group, key, now_ms)
        chosen = None if at is None else self._server(group, at, now_ms)
        if chosen is None:
            members = self._members.get(group, {})
            live = (worker for worker, member in members.items() if now_ms < member.ends_ms)
            chosen = rendezvous(key, live)
        if chosen is None:
            return None
        at = _Placement(chosen, "", ttl_ms) if at is None else replace(at, worker=chosen)
        return PlacementRecord(chosen, chosen == at.pin, self._keep(group, key, at, now_ms))

    @override
    async def pin(self, group: str, key: str, worker: str, ttl_ms: int) -> None:
        now_ms = self._now_ms()
        at = self._live(group, key, now_ms)
        given_to = at.worker if at else ""
        self._keep(group, key, _Placement(given_to, worker, ttl_ms), now_ms)

    @override
    async def unpin(self, group: str, key: str, ttl_ms: int) -> bool:
        now_ms = self._now_ms()
        at = self._live(group, key, now_ms)
        if at is None or not at.pin:
            return False
        if at.worker:
            self._keep(group, key, _Placement(at.worker, "", ttl_ms), now_ms)
        else:
            self._drop(group, key, at)
        return True

    @override
    async def touch(self, group: str, key: str, ttl_ms: int | None) -> bool:
        now_ms = self._now_ms()
        at = self._live(group, key, now_ms)
        if at is None:
            return False
        at = at if ttl_ms is None else replace(at, ttl_ms=ttl_ms)
        self._keep(group, key, at, now_ms)
        return True

    @override
    async def forget(self, group: str, key: str) -> bool:
        at = self._live(group, key, self._now_ms())
        if at is None:
            return False
        self._drop(group, key, at)
        return True

    @override
    async def find(self, group: str, key: str) -> PlacementRecord | None:
        return self._find(group, key, self._now_ms())

    @override
    async def page(self, group: str, worker: str, position: object | None) -> PlacementPage:
        if position is None:
            keys, start = list(self._placements.get(group, ())), 0
        else:
            keys, start = cast("tuple[list[str], int]", position)
            await checkpoint()  # a long list lets other tasks run
        now_ms = self._now_ms()
        end = start + _PAGE
        found = [
            key
            for key in keys[start:end]
            if (placement := self._find(group, key, now_ms)) is not None
            and placement.worker == worker
        ]
        return PlacementPage(found, (keys, end) if end < len(keys) else None)

    # --- shared steps ------------------------------------------------------------------------

    def _now_ms(self) -> int:
        now_ms = self._clock_ms()
        if now_ms < self._latest_ms:
            self._move_back(self._latest_ms - now_ms, now_ms)
        self._latest_ms = now_ms
        return now_ms

    def _move_back(self, back_ms: int, now_ms: int) -> None:
        """Move the ends of all memberships back by the time that the clock was set back.

        So a dead member's lease ends within its length.
        """
        for group, members in self._members.items():
            for worker, member in [*members.items()]:
                moved = replace(member, ends_ms=member.ends_ms - back_ms)
                self._join_or_renew(group, worker, moved, now_ms)

    def _member(self, group: str, worker: str, attempt: str, now_ms: int) -> _Member | None:
        member = self._members.get(group, {}).get(worker)
        if member is None or member.attempt != attempt or now_ms >= member.ends_ms:
            return None
        return member

    def _join_or_renew(
        self, group: str, worker: str, member: _Member, now_ms: int
    ) -> MembershipOutcome:
        members = self._members.setdefault(group, {})
        before = members.get(worker)
        due = self._scheduled(
            self._member_expiry,
            (group, worker),
            before.due if before else 0,
            member.ends_ms,
            now_ms,
        )
        members[worker] = replace(member, due=due)
        return MembershipOutcome(
            Verdict.DONE, member.fence, member.ends_ms, member.ends_ms - now_ms
        )

    def _live(self, group: str, key: str, now_ms: int) -> _Placement | None:
        at = self._placements.get(group, {}).get(key)
        return None if at is None or now_ms >= at.expires_ms else at

    def _server(self, group: str, at: _Placement, now_ms: int) -> str | None:
        members = self._members.get(group, {})
        for worker in (at.pin, at.worker):
            member = members.get(worker)
            if member is not None and now_ms < member.ends_ms:
                return worker
        return None

    def _find(self, group: str, key: str, now_ms: int) -> PlacementRecord | None:
        at = self._live(group, key, now_ms)
        worker = None if at is None else self._server(group, at, now_ms)
        if at is None or worker is None:
            return None
        return PlacementRecord(worker, worker == at.pin, at.expires_ms)

    def _keep(self, group: str, key: str, at: _Placement, now_ms: int) -> int:
        """Write a placement whose lifetime starts now, and return when it expires."""
        keys = self._placements.setdefault(group, {})
        before = keys.get(key)
        expires_ms = now_ms + at.ttl_ms
        due = self._scheduled(
            self._placement_expiry, (group, key), before.due if before else 0, expires_ms, now_ms
        )
        keys[key] = replace(at, expires_ms=expires_ms, due=due)
        return expires_ms

    def _drop(self, group: str, key: str, at: _Placement) -> None:
        self._placement_expiry.discard((group, key), at.due)
        self._forget_placement(group, key)

    def _scheduled(
        self, expiry: ExpiryIndex, name: Name, due: int, ends_ms: int, now_ms: int
    ) -> int:
        if due:
            if due <= ends_ms:
                return due  # the index checks it early enough
            expiry.discard(name, due)
        return expiry.add(name, ends_ms, now_ms)

    def _pop_due_member(self, now_ms: int) -> bool:
        name = self._member_expiry.pop_due(now_ms)
        if name is None:
            return False
        group, worker = name
        member = self._members[group][worker]
        if now_ms >= member.ends_ms:
            self._forget_member(group, worker)
        else:
            due = self._member_expiry.add(name, member.ends_ms, now_ms)
            self._members[group][worker] = replace(member, due=due)
        return True

    def _pop_due_placement(self, now_ms: int) -> bool:
        name = self._placement_expiry.pop_due(now_ms)
        if name is None:
            return False
        group, key = name
        at = self._placements[group][key]
        if now_ms >= at.expires_ms:
            self._forget_placement(group, key)
        else:
            due = self._placement_expiry.add(name, at.expires_ms, now_ms)
            self._placements[group][key] = replace(at, due=due)
        return True

    def _forget_member(self, group: str, worker: str) -> None:
        members = self._members[group]
        del members[worker]
        if not members:
            del self._members[group]

    def _forget_placement(self, group: str, key: str) -> None:
        keys = self._placements[group]
        del keys[key]
        if not keys:
            del self._placements[group]
