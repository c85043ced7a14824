"""The records, the lookup and the expiry index of a memory store."""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Final, final

import msgspec
from msgspec.structs import force_setattr, replace

from ..abc.records import DONE, EncodedSession, Outcome, Record, Verdict
from .expiry import ExpiryIndex
from .session_index import SessionIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..clock import Clock

__all__ = ["Records", "StoredRecord", "WaitState"]

_FREED_BYTES: Final = 8 << 20
"""Maximum size of a tenant's empty table that is freed, in bytes.

Freeing the table of a million sessions blocks the loop for milliseconds. So such a table stays for
later sessions."""


class WaitState(msgspec.Struct, frozen=True, gc=False):
    """The wait and the claim in a record.

    :ivar scope_hash: hash of the reply scope where the session waits, empty if it does not wait.
    :ivar since_us: when the wait was registered, in microseconds since the epoch.
    :ivar fence: fencing token of the newest claim. It stays when the claim ends.
    :ivar attempt: the attempt that holds the claim, empty without a claim.
    :ivar lease_ms: when the claim's lease ends, in milliseconds since the epoch. 0 without a claim.
    :ivar start_ms: when the lease was granted or renewed last, in milliseconds since the epoch.
    """

    scope_hash: str = ""
    since_us: int = 0
    fence: int = 0
    attempt: str = ""
    lease_ms: int = 0
    start_ms: int = 0

    def following_clock(self, now_ms: int) -> WaitState:
        """Return the wait with its lease end moved back by the time that the clock was set back.

        A start in the future shows that time. So a dead worker's lease ends within its length.
        """
        back_ms = self.start_ms - now_ms
        if back_ms <= 0 or not self.lease_ms:
            return self
        return replace(self, start_ms=now_ms, lease_ms=self.lease_ms - back_ms)


class StoredRecord(Record, frozen=True, gc=False):
    """A record with its wait.

    A touch changes ``at_ms`` in place. Every other change creates another object.

    :ivar due: when the expiry index checks the record, in milliseconds since the epoch. 0 is never.
    :ivar wait: the wait and the claim, ``None`` before the session first waits.
    :ivar schema_version: the highest that a store with versions wrote, 0 for none.
    :ivar labels: as in :class:`EncodedSession`.
    """

    due: int = 0
    wait: WaitState | None = None
    schema_version: int = 0
    labels: str = "-"

    def is_newer(self, encoded: EncodedSession) -> bool:
        """Return whether the record has a higher schema version than the state to write."""
        return 0 < encoded.schema_version < self.schema_version

    @property
    def expires_ms(self) -> int:
        """When the record expires, in milliseconds since the epoch. 0 is never.

        While a claim is held, the lifetime counts from the end of the claim's lease.
        """
        if self.ttl_ms == 0:
            return 0
        begins_ms = self.at_ms if self.wait is None else max(self.at_ms, self.wait.lease_ms)
        return begins_ms + self.ttl_ms


@final
class Records:
    """Stores the records of one store, with their lookup and expiry. Each change is one step.

    :param clock: the clock of the store.
    :ivar due_times: the times at which records may have expired, the earliest first.
    :ivar on_forget: called with scope, key and record when a record with a wait is removed or
        replaced.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock: Final = clock
        self._tenants: Final[dict[str, dict[str, StoredRecord]]] = {}
        # A key usually has one scope, which is stored directly. A container for each key would be
        # another object for each session, and more work for the garbage collector.
        self._lookup: Final[dict[str, str | dict[str, None]]] = {}
        self._expiry: Final = ExpiryIndex()
        self.due_times: Final = self._expiry.times
        self.on_forget: Callable[[str, str, StoredRecord], None] | None = None
        self.index: Final = SessionIndex()

    def sizes(self) -> dict[str, int]:
        """Return the numbers of sessions, sessions that expire, tenants and lookups."""
        return {
            "sessions": sum(map(len, self._tenants.values())),
            "expiring": len(self._expiry),
            "tenants": sum(map(bool, self._tenants.values())),
            "lookups": len(self._lookup),
        }

    def live(self, scope: str, key: str, now_ms: int) -> StoredRecord | None:
        """Return the record, ``None`` if it is absent or has expired."""
        tenant = self._tenants.get(scope)
        record = None if tenant is None else tenant.get(key)
        # `due` is never after the expiry. So before `due`, the expiry need not be computed.
        if record is None or now_ms < record.due or not _expired(record, now_ms):
            return record
        return None

    def keys(self, scope: str) -> list[str]:
        """Return the keys of a scope, including those of expired records."""
        return list(self._tenants.get(scope, ()))

    def holders(self, key: str, now_ms: int) -> Iterator[str]:
        """Yield the scopes that hold a live record under the key."""
        for scope in self._scopes(key):
            if self.live(scope, key, now_ms) is not None:
                yield scope

    def write(
        self,
        encoded: EncodedSession,
        value: int,
        incarnation: str,
        now_ms: int,
        wait: WaitState | None = None,
    ) -> Outcome:
        """Write a record as the given version."""
        scope, key = encoded.scope, encoded.key
        tenant = self._tenants.get(scope)
        if tenant is None:
            tenant = self._tenants[scope] = {}
        stored = tenant.get(key)
        if stored is None:
            others = self._lookup.setdefault(key, scope)
            if isinstance(others, dict):
                others[scope] = None
            elif others != scope:
                self._lookup[key] = {others: None, scope: None}
        elif stored.wait is not None and stored.incarnation != incarnation:
            # The stored record has expired, and was not swept yet.
            self._tell(scope, key, stored)
        if stored is None:
            self.index.add(scope, key, encoded.owner, encoded.labels)
        elif stored.owner != encoded.owner or stored.labels != encoded.labels:
            self.index.discard(scope, key, stored.owner, stored.labels)
            self.index.add(scope, key, encoded.owner, encoded.labels)
        ttl_ms = encoded.ttl_ms
        begins_ms = now_ms if wait is None else max(now_ms, wait.lease_ms)
        due = self._schedule(
            scope, key, stored.due if stored else 0, ttl_ms and begins_ms + ttl_ms, now_ms
        )
        schema_version = encoded.schema_version
        if not schema_version and stored is not None and stored.incarnation == incarnation:
            schema_version = stored.schema_version
        tenant[key] = StoredRecord(
            value,
            incarnation,
            encoded.owner,
            ttl_ms,
            now_ms,
            encoded.body,
            due,
            wait,
            schema_version,
            encoded.labels,
        )
        return Outcome(DONE, value, incarnation, now_ms)

    def rewrite(self, encoded: EncodedSession, live: StoredRecord, now_ms: int) -> Outcome:
        """Write the next version of a live record, unless it has a higher schema version.

        Its wait stays.
        """
        schema_version = live.schema_version
        if encoded.schema_version:
            if live.is_newer(encoded):
                return Outcome(Verdict.NEWER)
            schema_version = encoded.schema_version
        scope, key, wait, ttl_ms = encoded.scope, encoded.key, live.wait, encoded.ttl_ms
        value, incarnation = live.value + 1, live.incarnation
        if live.labels != encoded.labels:
            self.index.discard(scope, key, live.owner, live.labels)
            self.index.add(scope, key, live.owner, encoded.labels)
        begins_ms = now_ms if wait is None or now_ms >= wait.lease_ms else wait.lease_ms
        due = live.due
        if not 0 < due <= begins_ms + ttl_ms or ttl_ms == 0:
            due = self._schedule(scope, key, due, ttl_ms and begins_ms + ttl_ms, now_ms)
        self._tenants[scope][key] = StoredRecord(
            value,
            incarnation,
            live.owner,
            ttl_ms,
            now_ms,
            encoded.body,
            due,
            wait,
            schema_version,
            encoded.labels,
        )
        return Outcome(DONE, value, incarnation, now_ms)

    def restamp(self, scope: str, key: str, record: StoredRecord, ttl_ms: int, now_ms: int) -> None:
        """Restart the lifetime of a live record."""
        if ttl_ms == record.ttl_ms and record.due <= now_ms + ttl_ms:
            # The index checks the record early enough, so only the time changes. This is the usual
            # touch.
            force_setattr(record, "at_ms", now_ms)
            return
        begins_ms = now_ms if record.wait is None else max(now_ms, record.wait.lease_ms)
        due = self._schedule(scope, key, record.due, ttl_ms and begins_ms + ttl_ms, now_ms)
        changed = replace(record, ttl_ms=ttl_ms, at_ms=now_ms, due=due)
        self._tenants[scope][key] = changed

    def rewait(self, scope: str, key: str, record: StoredRecord, now_ms: int) -> None:
        """Replace a live record with a copy whose wait has changed."""
        due = self._schedule(scope, key, record.due, record.expires_ms, now_ms)
        self._tenants[scope][key] = replace(record, due=due)

    def remove(self, scope: str, key: str, record: StoredRecord) -> None:
        """Remove a record."""
        self._expiry.discard((scope, key), record.due)
        self._forget(scope, key)

    def pop_due(self, now_ms: int) -> bool | None:
        """Check one record that may have expired, and remove it if it has.

        :returns: whether it was removed. ``None`` if nothing is due.
        """
        due = self._expiry.pop_due(now_ms)
        if due is None:
            return None
        scope, key = due
        record = self._tenants[scope][key]
        if _expired(record, now_ms):
            self._forget(scope, key)
            return True
        # The lifetime was extended, so the index checks the record again at its new end.
        again = self._expiry.add(due, record.expires_ms, now_ms)
        self._tenants[scope][key] = replace(record, due=again)
        return False

    def clear(self) -> None:
        """Remove everything."""
        self._tenants.clear()
        self._lookup.clear()
        self._expiry.clear()
        self.index.clear()

    def _schedule(self, scope: str, key: str, due: int, expires_ms: int, now_ms: int) -> int:
        if due:
            if due <= expires_ms:
                return due  # the index checks the record early enough
            self._expiry.discard((scope, key), due)
        return self._expiry.add((scope, key), expires_ms, now_ms) if expires_ms else 0

    def _forget(self, scope: str, key: str) -> None:
        tenant = self._tenants[scope]
        record = tenant.pop(key)
        self.index.discard(scope, key, record.owner, record.labels)
        if not tenant and getsizeof(tenant) <= _FREED_BYTES:
            del self._tenants[scope]
        scopes = self._lookup[key]
        if isinstance(scopes, str):
            del self._lookup[key]
        else:
            del scopes[scope]
            if len(scopes) == 1:
                (self._lookup[key],) = scopes
        if record.wait is not None:
            self._tell(scope, key, record)

    def _scopes(self, key: str) -> Iterable[str]:
        scopes = self._lookup.get(key, ())
        return (scopes,) if isinstance(scopes, str) else scopes

    def _tell(self, scope: str, key: str, record: StoredRecord) -> None:
        if self.on_forget is not None:
            self.on_forget(scope, key, record)


def _expired(record: StoredRecord, now_ms: int) -> bool:
    # The first two conditions usually decide, so they come first.
    return (
        record.ttl_ms != 0
        and now_ms >= record.at_ms + record.ttl_ms
        and (record.wait is None or now_ms >= record.wait.lease_ms + record.ttl_ms)
    )
