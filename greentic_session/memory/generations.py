"""Generations in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec

from .._compat import override
from ..abc.generations import GenerationBackend, GenerationOwner
from ..abc.records import mint_incarnation
from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock

__all__ = ["MemoryGenerations"]


class _Generation(msgspec.Struct, frozen=True, gc=False):
    """The generation of an owner.

    :ivar text: the generation.
    :ivar expires_ms: when it expires, in milliseconds since the epoch. 0 is never.
    :ivar due: when the expiry index checks it. 0 is never.
    """

    text: str
    expires_ms: int
    due: int


@final
class MemoryGenerations(GenerationBackend):
    """The steps of generations. No step waits for I/O.

    :param clock: the clock of the store.
    :param check_open: checks that the store is open, before each step.
    """

    def __init__(self, clock: Clock, check_open: Callable[[], None]) -> None:
        self._now_ms: Final[Callable[[], int]] = clock.now_ms
        self._check_open: Final = check_open
        self._stored: Final[dict[GenerationOwner, _Generation]] = {}
        self._expiry: Final = ExpiryIndex()

    def sizes(self) -> dict[str, int]:
        """Return the number of generations."""
        return {"generations": len(self._stored)}

    def pop_due(self, now_ms: int) -> bool:
        """Check one generation that may have expired.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        owner = GenerationOwner(*name)
        held = self._stored.pop(owner)
        if now_ms < held.expires_ms:
            due = self._expiry.add(owner, held.expires_ms, now_ms)
            self._stored[owner] = _Generation(held.text, held.expires_ms, due)
        return True

    def forget_all(self) -> None:
        """Forget everything."""
        self._stored.clear()
        self._expiry.clear()

    @override
    async def read(self, owner: GenerationOwner, keep_ms: int) -> str:
        self._check_open()
        now_ms = self._now_ms()
        live = self._live(owner, now_ms)
        return self._store(
            owner, mint_incarnation() if live is None else live.text, live, now_ms + keep_ms, now_ms
        )

    @override
    async def confirm(self, owner: GenerationOwner, generation: str, ttl_ms: int) -> bool:
        self._check_open()
        now_ms = self._now_ms()
        live = self._live(owner, now_ms)
        if live is None or live.text != generation:
            return False
        # It is kept for one millisecond more than the session.
        self._store(owner, generation, live, ttl_ms and now_ms + ttl_ms + 1, now_ms)
        return True

    @override
    async def raise_(self, owner: GenerationOwner, keep_ms: int) -> str:
        self._check_open()
        now_ms = self._now_ms()
        live = self._live(owner, now_ms)
        return self._store(owner, mint_incarnation(), live, now_ms + keep_ms, now_ms)

    def _live(self, owner: GenerationOwner, now_ms: int) -> _Generation | None:
        held = self._stored.get(owner)
        return None if held is None or 0 < held.expires_ms <= now_ms else held

    def _store(
        self,
        owner: GenerationOwner,
        text: str,
        live: _Generation | None,
        expires_ms: int,
        now_ms: int,
    ) -> str:
        """Store a generation for at least as long as the one that it replaces."""
        held = self._stored.get(owner)
        if held is not None and held.due:
            self._expiry.discard(owner, held.due)
        if live is not None and expires_ms:
            expires_ms = live.expires_ms and max(live.expires_ms, expires_ms)
        due = self._expiry.add(owner, expires_ms, now_ms) if expires_ms else 0
        self._stored[owner] = _Generation(text, expires_ms, due)
        return text
