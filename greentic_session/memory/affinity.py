"""Workers and the keys placed among them, in this process."""

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
    PlacementRecord,
    PlacePage,
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
    """A member.

    :ivar due: when the expiry index looks at it.
    """

    attempt: str
    fence: int
    ends_ms: int
    due: int


class _Placement(msgspec.Struct, frozen=True, gc=False):
    """Where a key is placed.

    :ivar worker: to whom it was given last; empty before.
    :ivar pin: to whom it is pinned; empty without a pin.
    :ivar ttl_ms: its life, which begins anew each time it is used.
    :ivar expires_ms: when it ends.
    :ivar due: when the expiry index looks at it.
    """

    worker: str
    pin: str
    ttl_ms: int
    expires_ms: int = 0
    due: int = 0


@final
class MemoryAffinity(AffinityBackend):
    """The steps of affinity. None of them waits for anything.

    :param clock: tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._now_ms: Final[Callable[[], int]] = clock.now_ms
        self._members: Final[dict[str, dict[str, _Member]]] = {}
        self._places: Final[dict[str, dict[str, _Placement]]] = {}
        self._member_expiry: Final = ExpiryIndex()
        self._place_expiry: Final = ExpiryIndex()
        self._fencing: Final = FencingCounter()

    def sizes(self) -> dict[str, int]:
        """Return how many members and placements there are."""
        return {
            "members": sum(map(len, self._members.values())),
            "placements": sum(map(len, self._places.values())),
        }

    def pop_due(self, now_ms: int) -> bool:
        """Look at one member or placement that may have expired.

        :returns: ``False`` if nothing is due.
        """
        return self._pop_due_place(now_ms) or self._pop_due_member(now_ms)

    def forget_all(self) -> None:
        """Forget everything."""
        self._members.clear()
        self._places.clear()
        self._member_expiry.clear()
        self._place_expiry.clear()

    # --- members -----------------------------------------------------------------------------

    @override
    async def join(self, group: str, worker: str, attempt: str, lease_ms: int) -> MembershipOutcome:
        now_ms = self._now_ms()
        held = self._members.get(group, {}).get(worker)
        ends_ms = now_ms + lease_ms
        if held is None or now_ms >= held.ends_ms:
            fence = self._fencing.issue(now_ms)
        elif held.attempt == attempt:
            fence, ends_ms = held.fence, max(ends_ms, held.ends_ms)
        else:
            return MembershipOutcome(Verdict.CLAIMED, ends_ms=held.ends_ms)
        return self._join_or_renew(group, worker, _Member(attempt, fence, ends_ms, 0), now_ms)

    @override
    async def renew(
        self, group: str, worker: str, attempt: str, lease_ms: int
    ) -> MembershipOutcome:
        now_ms = self._now_ms()
        held = self._member(group, worker, attempt, now_ms)
        if held is None:
            return MembershipOutcome(Verdict.LOST)
        held = replace(held, ends_ms=max(now_ms + lease_ms, held.ends_ms))
        return self._join_or_renew(group, worker, held, now_ms)

    @override
    async def leave(self, group: str, worker: str, attempt: str) -> bool:
        held = self._member(group, worker, attempt, self._now_ms())
        if held is None:
            return False
        self._member_expiry.discard((group, worker), held.due)
        self._forget_member(group, worker)
        return True

    @override
    async def members(self, group: str) -> list[MemberRecord]:
        now_ms = self._now_ms()
        return [
            MemberRecord(worker, held.fence, held.ends_ms)
            for worker, held in self._members.get(group, {}).items()
            if now_ms < held.ends_ms
        ]

    # --- places ------------------------------------------------------------------------------

    @override
    async def assign(self, group: str, place: str, ttl_ms: int) -> PlacementRecord | None:
        now_ms = self._now_ms()
        at = self._live(group, place, now_ms)
        chosen = None if at is None else self._server(group, at, now_ms)
        if chosen is None:
            members = self._members.get(group, {})
            live = (worker for worker, held in members.items() if now_ms < held.ends_ms)
            chosen = rendezvous(place, live)
        if chosen is None:
            return None
        at = _Placement(chosen, "", ttl_ms) if at is None else replace(at, worker=chosen)
        return PlacementRecord(chosen, chosen == at.pin, self._keep(group, place, at, now_ms))

    @override
    async def pin(self, group: str, place: str, worker: str, ttl_ms: int) -> None:
        now_ms = self._now_ms()
        at = self._live(group, place, now_ms)
        given_to = at.worker if at else ""
        self._keep(group, place, _Placement(given_to, worker, ttl_ms), now_ms)

    @override
    async def unpin(self, group: str, place: str, ttl_ms: int) -> bool:
        now_ms = self._now_ms()
        at = self._live(group, place, now_ms)
        if at is None or not at.pin:
            return False
        if at.worker:
            self._keep(group, place, _Placement(at.worker, "", ttl_ms), now_ms)
        else:
            self._drop(group, place, at)
        return True

    @override
    async def touch(self, group: str, place: str, ttl_ms: int | None) -> bool:
        now_ms = self._now_ms()
        at = self._live(group, place, now_ms)
        if at is None:
            return False
        at = at if ttl_ms is None else replace(at, ttl_ms=ttl_ms)
        self._keep(group, place, at, now_ms)
        return True

    @override
    async def forget(self, group: str, place: str) -> bool:
        at = self._live(group, place, self._now_ms())
        if at is None:
            return False
        self._drop(group, place, at)
        return True

    @override
    async def find(self, group: str, place: str) -> PlacementRecord | None:
        return self._find(group, place, self._now_ms())

    @override
    async def page(self, group: str, worker: str, position: object | None) -> PlacePage:
        if position is None:
            places, start = list(self._places.get(group, ())), 0
        else:
            places, start = cast("tuple[list[str], int]", position)
            await checkpoint()  # a list of many lets others run
        now_ms = self._now_ms()
        end = start + _PAGE
        found = [
            place
            for place in places[start:end]
            if (placement := self._find(group, place, now_ms)) is not None
            and placement.worker == worker
        ]
        return PlacePage(found, (places, end) if end < len(places) else None)

    # --- shared steps ------------------------------------------------------------------------

    def _member(self, group: str, worker: str, attempt: str, now_ms: int) -> _Member | None:
        held = self._members.get(group, {}).get(worker)
        if held is None or held.attempt != attempt or now_ms >= held.ends_ms:
            return None
        return held

    def _join_or_renew(
        self, group: str, worker: str, held: _Member, now_ms: int
    ) -> MembershipOutcome:
        members = self._members.setdefault(group, {})
        before = members.get(worker)
        due = self._scheduled(
            self._member_expiry, (group, worker), before.due if before else 0, held.ends_ms, now_ms
        )
        members[worker] = replace(held, due=due)
        return MembershipOutcome(Verdict.DONE, held.fence, held.ends_ms, held.ends_ms - now_ms)

    def _live(self, group: str, place: str, now_ms: int) -> _Placement | None:
        at = self._places.get(group, {}).get(place)
        return None if at is None or now_ms >= at.expires_ms else at

    def _server(self, group: str, at: _Placement, now_ms: int) -> str | None:
        members = self._members.get(group, {})
        for worker in (at.pin, at.worker):
            held = members.get(worker)
            if held is not None and now_ms < held.ends_ms:
                return worker
        return None

    def _find(self, group: str, place: str, now_ms: int) -> PlacementRecord | None:
        at = self._live(group, place, now_ms)
        worker = None if at is None else self._server(group, at, now_ms)
        if at is None or worker is None:
            return None
        return PlacementRecord(worker, worker == at.pin, at.expires_ms)

    def _keep(self, group: str, place: str, at: _Placement, now_ms: int) -> int:
        """Write a placement whose life begins now, and return when it expires."""
        places = self._places.setdefault(group, {})
        before = places.get(place)
        expires_ms = now_ms + at.ttl_ms
        due = self._scheduled(
            self._place_expiry, (group, place), before.due if before else 0, expires_ms, now_ms
        )
        places[place] = replace(at, expires_ms=expires_ms, due=due)
        return expires_ms

    def _drop(self, group: str, place: str, at: _Placement) -> None:
        self._place_expiry.discard((group, place), at.due)
        self._forget_place(group, place)

    def _scheduled(
        self, expiry: ExpiryIndex, name: Name, due: int, ends_ms: int, now_ms: int
    ) -> int:
        if due:
            if due <= ends_ms:
                return due  # the index looks no later than needed: leave it where it is
            expiry.discard(name, due)
        return expiry.add(name, ends_ms, now_ms)

    def _pop_due_member(self, now_ms: int) -> bool:
        name = self._member_expiry.pop_due(now_ms)
        if name is None:
            return False
        group, worker = name
        held = self._members[group][worker]
        if now_ms >= held.ends_ms:
            self._forget_member(group, worker)
        else:
            due = self._member_expiry.add(name, held.ends_ms, now_ms)
            self._members[group][worker] = replace(held, due=due)
        return True

    def _pop_due_place(self, now_ms: int) -> bool:
        name = self._place_expiry.pop_due(now_ms)
        if name is None:
            return False
        group, place = name
        at = self._places[group][place]
        if now_ms >= at.expires_ms:
            self._forget_place(group, place)
        else:
            due = self._place_expiry.add(name, at.expires_ms, now_ms)
            self._places[group][place] = replace(at, due=due)
        return True

    def _forget_member(self, group: str, worker: str) -> None:
        members = self._members[group]
        del members[worker]
        if not members:
            del self._members[group]

    def _forget_place(self, group: str, place: str) -> None:
        places = self._places[group]
        del places[place]
        if not places:
            del self._places[group]
