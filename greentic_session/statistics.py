"""The struct of a store's statistics."""

from __future__ import annotations

import msgspec

__all__ = ["StoreStatistics"]


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a store knows about itself without asking anybody.

    :ivar backend: ``memory`` or ``redis``.
    :ivar closed: whether ``aclose`` was called.
    :ivar sessions: records held in this process, expired and not yet swept ones included;
        ``None`` where a server holds them.
    :ivar expiring: how many of these have a limited life.
    :ivar tenants: how many (env, tenant) pairs have records in this process.
    :ivar lookups: how many keys the lookup mirror holds in this process.
    :ivar waits: hints that the indexes of waits hold in this process.
    :ivar events: sessions and users of whom completed events are remembered in this process.
    :ivar mail: letters in the mailboxes of this process.
    :ivar turns: turns that are held in this process, or whose lease has run out unnoticed.
    :ivar dead_letters: dead letters in this process.
    :ivar early: events that are kept in this process until a session waits for them.
    :ivar members: members of groups of workers in this process, expired and not yet swept ones
        included.
    :ivar placements: keys that are placed or pinned in this process, expired and not yet swept
        ones included.
    :ivar locks: locks that are held or waited for in this process, ended and not yet swept ones
        included.
    :ivar swept: records that sweeps removed since the store was made.
    :ivar in_flight: calls that wait for a server now.
    :ivar connections: connections to a server that are open now.
    :ivar retries: attempts after the first of each call, since the store was made.
    """

    backend: str
    closed: bool = False
    sessions: int | None = None
    expiring: int | None = None
    tenants: int | None = None
    lookups: int | None = None
    waits: int | None = None
    events: int | None = None
    mail: int | None = None
    turns: int | None = None
    dead_letters: int | None = None
    early: int | None = None
    members: int | None = None
    placements: int | None = None
    locks: int | None = None
    swept: int = 0
    in_flight: int = 0
    connections: int = 0
    retries: int = 0
