"""The struct of a store's statistics."""

from __future__ import annotations

import msgspec

__all__ = ["StoreStatistics"]


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a store, read without I/O.

    ``None`` means that the server has the number, not this process. Expired entries count until a
    sweep removes them.

    :ivar backend: ``memory`` or ``redis``.
    :ivar closed: whether ``aclose`` was called.
    :ivar sessions: records in this process.
    :ivar expiring: how many of these have a limited lifetime.
    :ivar tenants: how many (env, tenant) pairs have records in this process.
    :ivar lookups: keys in the lookup of this process.
    :ivar waits: index entries of waits in this process.
    :ivar events: sessions and users with remembered completed events in this process.
    :ivar mail: messages in the mailboxes of this process.
    :ivar turns: turns in this process that are held, or whose lease has ended unnoticed.
    :ivar dead_letters: dead letters in this process.
    :ivar early: early events in this process.
    :ivar members: members of groups of workers in this process.
    :ivar placements: keys in this process that are assigned or pinned to a worker.
    :ivar generations: generations of owners in this process.
    :ivar timers: timers in this process.
    :ivar locks: locks in this process that are held or have waiters.
    :ivar swept: records that sweeps have removed since the store was made.
    :ivar in_flight: calls that wait for a server now.
    :ivar connections: connections to a server that are open now.
    :ivar retries: attempts after the first one of each call, since the store was made.
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
    generations: int | None = None
    timers: int | None = None
    locks: int | None = None
    swept: int = 0
    in_flight: int = 0
    connections: int = 0
    retries: int = 0
