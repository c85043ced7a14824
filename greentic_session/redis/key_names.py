"""Names of the keys and channels on a server.

Each part from outside is percent-encoded unless its alphabet is safe, so it cannot forge the
structure of a name. The braces around a session key are a cluster hash tag (Redis cluster
specification, "Hash tags"). So the record and the lookup of a session share a slot, and a tenant's
sessions spread over all slots.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final, NamedTuple, final
from urllib.parse import quote, unquote

from .._core.labels import NOT_COMPARED
from ..abc.fencing import LeaseKind, LeaseRef
from ..errors import DecodeError
from ..model import SessionKey

__all__ = ["SHARDS", "IndexName", "KeyNames"]

# All printable ASCII except `%` (escapes), `:{}` (structure) and `*?[]\` (patterns of MATCH).
# `quote` never escapes letters, digits and `_.-~`, so they are not listed.
_SAFE: Final = " !\"#$&'()+,/;<=>@^`|"
SHARDS: Final = 16
"""Number of slots over which the indexes of one tenant are spread."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~ !\"#$&'()+,/;<=>@^`|-]*")


def escape(part: str) -> str:
    """Return a unique text of a part, in printable ASCII without ``:``, ``{`` and ``}``."""
    return part if _PLAIN.fullmatch(part) else quote(part, safe=_SAFE)


class IndexName(NamedTuple):
    """An index of sessions.

    :ivar name: the name of its key.
    :ivar kind: what has an entry: ``all`` sessions of a tenant, those of a ``user``, or those with
        a ``label``.
    :ivar value: the user or the text of the label.
    """

    name: str
    kind: str
    value: str


@final
class KeyNames:
    """Builds and parses the names of one namespace.

    :param namespace: the prefix of every name, checked by :class:`RedisConfig`.
    """

    __slots__ = ("_namespace",)

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def record(self, scope: str, key: str) -> str:
        """Return ``{ns}:{env}:{tenant}:{<key>}``.

        :param scope: ``env/tenant``. Neither part holds a ``/`` or ``:``.
        """
        return f"{self._records(scope)}{escape(key)}}}"

    def lookup(self, key: str) -> str:
        """Return ``{ns}:lookup:{<key>}``."""
        return f"{self._namespace}:lookup:{{{escape(key)}}}"

    def session_keys(self, scope: str, key: str) -> tuple[str, ...]:
        """Return the names of :meth:`record` and :meth:`lookup`."""
        return _session_keys(self, scope, key)

    def wait_index(self, env: str, tenant_id: str, team_id: str | None, user_id: str) -> str:
        """Return ``{ns}:waits:{<env>:<tenant>:<team>:<user>}``. An absent team is empty."""
        owner = ":".join(escape(part) for part in (env, tenant_id, team_id or "", user_id))
        return f"{self._namespace}:waits:{{{owner}}}"

    def generation(self, env: str, tenant_id: str, team_id: str | None, user_id: str) -> str:
        """Return ``{ns}:generation:{<owner>}``. The owner is as in :meth:`wait_index`."""
        owner = ":".join(escape(part) for part in (env, tenant_id, team_id or "", user_id))
        return f"{self._namespace}:generation:{{{owner}}}"

    def affinity(self, group: str) -> tuple[str, ...]:
        """Return ``{ns}:affinity:{<group>}:ops``, and the same with ``members``, ``places`` and
        ``ends``.
        """
        start = f"{self._namespace}:affinity:{{{escape(group)}}}"
        return f"{start}:ops", f"{start}:members", f"{start}:places", f"{start}:ends"

    def events(self, name: str) -> str:
        """Return the name of the completed events of a record or an index of waits."""
        return f"{name}:events"

    def lock(self, scope: str, key: str) -> str:
        """Return ``{ns}:{env}:{tenant}:{<key>}:lock``, or ``{ns}:lock:{<key>}`` without a scope."""
        if scope:
            return f"{self.record(scope, key)}:lock"
        return f"{self._namespace}:lock:{{{escape(key)}}}"

    def lock_keys(self, scope: str, key: str) -> tuple[str, str]:
        """Return the names of :meth:`lock` and of its queue."""
        lock = self.lock(scope, key)
        return lock, f"{lock}:queue"

    def inbox(self, scope: str, key: str) -> str:
        """Return ``{ns}:{env}:{tenant}:{<key>}:inbox``."""
        return f"{self.record(scope, key)}:inbox"

    def stream(self, scope: str, key: str) -> tuple[str, str]:
        """Return ``{ns}:{env}:{tenant}:{<key>}:out`` and the same with ``:head``.

        :param key: the session. The empty key returns ``{ns}:out:{<env>:<tenant>}`` and its head.
        """
        if key:
            stream = f"{self.record(scope, key)}:out"
        else:
            stream = f"{self._namespace}:out:{{{scope.replace('/', ':')}}}"
        return stream, f"{stream}:head"

    def stream_topic(self, scope: str, key: str) -> str:
        """Return the notification topic of a stream. It holds the hash tag of the session."""
        return f"out:{scope}/{{{escape(key)}}}"

    def lease(self, lease: LeaseRef) -> str:
        """Return the name of the hash that stores a lease in ``fence``, ``lease`` and ``by``."""
        name = self.inbox if lease.kind is LeaseKind.INBOX else self.lock
        return name(lease.scope, lease.key)

    def mailbox_keys(self, scope: str, key: str) -> tuple[str, ...]:
        """Return the names of :meth:`record`, :meth:`lookup`, :meth:`inbox` and its messages."""
        return _mailbox_keys(self, scope, key)

    def inbox_index(self, inbox: str) -> str:
        """Return the name of an inbox's index, ``{ns}:inbox:{<name>}``."""
        return f"{self._namespace}:inbox:{{{escape(inbox)}}}"

    def timers(self, name: str, shard: int) -> tuple[str, str, str, str]:
        """Return the names of a shard's timers, ``{ns}:timers:{<name>.<shard>}``, and the same with
        ``payloads``, ``taken`` and ``cancelled``.
        """
        start = f"{self._namespace}:timers:{{{escape(name)}.{shard}}}"
        return start, f"{start}:payloads", f"{start}:taken", f"{start}:cancelled"

    def timer_shards(self, name: str) -> str:
        """Return the name of a set's number of shards, ``{ns}:timers:{<name>}:shards``."""
        return f"{self._namespace}:timers:{{{escape(name)}}}:shards"

    def inbox_indexes(self, inbox: str, scope: str) -> tuple[str, ...]:
        """Return the names of an inbox's index, and of a tenant's part of it.

        :param scope: ``env/tenant``. With an empty one, only the first name is returned.
        """
        index = self.inbox_index(inbox)
        return (index, f"{index}:tenant:{escape(scope)}") if scope else (index,)

    def early_events(
        self, env: str, tenant_id: str, team_id: str | None, user_id: str, scope_hash: str
    ) -> str:
        """Return the name of a reply scope's early events, ``{ns}:early:{<owner>}:<hash>``.

        The owner is as in :meth:`wait_index`.
        """
        owner = ":".join(escape(part) for part in (env, tenant_id, team_id or "", user_id))
        return f"{self._namespace}:early:{{{owner}}}:{scope_hash}"

    def session_indexes(
        self, scope: str, key: str, owner: str, labels: str
    ) -> tuple[tuple[IndexName, ...], ...]:
        """Return the indexes that have an entry of a session, by slot.

        :param owner: its owner, ``team/user``.
        :param labels: texts of its indexed labels, one a line.
        """
        shard = self._shard(scope, zlib.crc32(key.encode()) % SHARDS)
        texts = [label for label in labels.split("\n") if label]
        of_labels = (IndexName(f"{shard}:{label}", "label", label) for label in texts)
        of_tenant = (IndexName(shard, "all", ""), *of_labels)
        user = owner.partition("/")[2]
        if not user:
            return (of_tenant,)
        return of_tenant, (IndexName(self.user_index(scope, user), "user", user),)

    def index_names(self, scope: str, key: str, owner: str, labels: str) -> tuple[str, ...]:
        """Return the names of :meth:`session_indexes`. The labels may be ``"-"`` for none."""
        return _index_names(self, scope, key, owner, labels)

    def tenant_indexes(self, scope: str, label: str = "") -> list[IndexName]:
        """Return ``{ns}:find:{<env>:<tenant>:<shard>}`` of each shard, or ``…:<label>``."""
        shards = (self._shard(scope, number) for number in range(SHARDS))
        if label:
            return [IndexName(f"{shard}:{label}", "label", label) for shard in shards]
        return [IndexName(shard, "all", "") for shard in shards]

    def user_index(self, scope: str, user_id: str) -> str:
        """Return ``{ns}:find:{<env>:<tenant>::<user>}``, the index of a user in all teams."""
        return f"{self._namespace}:find:{{{scope.replace('/', ':')}::{escape(user_id)}}}"

    def index_guards(self, index: str) -> str:
        """Return the name of the guards in the slot of an index."""
        return f"{index[: index.index('}') + 1]}:guards"

    def complete_indexes(self) -> str:
        """Return ``{ns}:find:complete``, the tenants and labels whose indexes are complete."""
        return f"{self._namespace}:find:complete"

    def _shard(self, scope: str, number: int) -> str:
        return f"{self._namespace}:find:{{{scope.replace('/', ':')}:{number:x}}}"

    def unescaped(self, scope: str, member: bytes) -> SessionKey:
        """Return the session key in an entry of an index.

        :raises DecodeError: this library did not write the entry.
        """
        return self.key_of(scope, self._records(scope).encode() + member + b"}")

    def escaped(self, key: str) -> str:
        """Return a session key as it stands in the name of its record."""
        return escape(key)

    def channel(self, topic: str) -> str:
        """Return the channel ``{ns}:bell:{topic}``.

        :param topic: a topic of this library in printable ASCII. An empty one returns the prefix
            of all channels.
        """
        return f"{self._namespace}:bell:{topic}"

    def claims_topic(self, scope: str, key: str) -> str:
        """Return the notification topic of the end of a session's claims."""
        return f"wait:{scope}/{escape(key)}"

    def pattern(self, scope: str) -> str:
        """Return the pattern for SCAN's MATCH that finds a scope's records."""
        return f"{self._records(scope)}*}}"

    def all_records(self) -> str:
        """Return the pattern for SCAN's MATCH that finds the records of every scope."""
        return f"{self._namespace}:*:*:{{*}}"

    def scope_of(self, record: bytes) -> str | None:
        """Return the scope in the name of a record, ``None`` if it is the name of another key."""
        start, _, rest = record.decode("ascii", "replace").partition(":{")
        parts = start[len(self._namespace) + 1 :].split(":")
        if len(parts) != 2 or not rest or rest.find("}") != len(rest) - 1:
            return None
        return "/".join(parts)

    def key_of(self, scope: str, record: bytes) -> SessionKey:
        """Return the session key in the name of a record.

        :raises DecodeError: :meth:`record` does not build that name.
        """
        start = len(self._records(scope))
        try:
            key = unquote(record.decode("ascii")[start:-1], errors="strict")
        except UnicodeDecodeError:
            key = ""
        if not key or self.record(scope, key).encode() != record:
            raise DecodeError(key, "this library did not write a key in the namespace")
        return SessionKey(key)

    def _records(self, scope: str) -> str:
        return f"{self._namespace}:{scope.replace('/', ':')}:{{"


@lru_cache(maxsize=8192)
def _session_keys(names: KeyNames, scope: str, key: str) -> tuple[str, ...]:
    # Cached, because a session that was written is often written again soon.
    return names.record(scope, key), names.lookup(key)


@lru_cache(maxsize=8192)
def _index_names(names: KeyNames, scope: str, key: str, owner: str, labels: str) -> tuple[str, ...]:
    slots = names.session_indexes(scope, key, owner, "" if labels == NOT_COMPARED else labels)
    return tuple(index.name for slot in slots for index in slot)


@lru_cache(maxsize=8192)
def _mailbox_keys(names: KeyNames, scope: str, key: str) -> tuple[str, ...]:
    record, lookup = names.session_keys(scope, key)
    return record, lookup, f"{record}:inbox", f"{record}:inbox:mail"
