"""Names of the keys and channels on a server.

Every part that comes from outside is percent-encoded unless its alphabet is safe by itself, so no
part can forge the structure around it. The braces around a session key are a cluster hash tag:
record and lookup of one session share a slot, and a tenant's sessions spread over all of them
(Redis cluster specification, "Hash tags").
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, final
from urllib.parse import quote, unquote

from ..abc.fencing import LeaseKind, LeaseRef
from ..errors import DecodeError
from ..model import SessionKey

__all__ = ["KeyNames"]

# All printable ASCII except `%`, which escapes, `:{}`, which structure, and `*?[]\`, which SCAN's
# MATCH reads as patterns. Letters, digits and `_.-~` are safe and need not be listed here.
_SAFE: Final = " !\"#$&'()+,/;<=>@^`|"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~ !\"#$&'()+,/;<=>@^`|-]*")


def escape(part: str) -> str:
    """Return a unique text of a part, in printable ASCII without ``:``, ``{`` and ``}``."""
    return part if _PLAIN.fullmatch(part) else quote(part, safe=_SAFE)


@final
class KeyNames:
    """The names of one namespace.

    :param namespace: start of every name, checked by :class:`RedisConfig`.
    """

    __slots__ = ("_namespace",)

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def record(self, scope: str, key: str) -> str:
        """Return ``{ns}:{env}:{tenant}:{<key>}``.

        :param scope: ``env/tenant``. Neither of the two holds a ``/`` or ``:``.
        """
        return f"{self._records(scope)}{escape(key)}}}"

    def lookup(self, key: str) -> str:
        """Return ``{ns}:lookup:{<key>}``."""
        return f"{self._namespace}:lookup:{{{escape(key)}}}"

    def session_keys(self, scope: str, key: str) -> tuple[str, ...]:
        """Return :meth:`record` and :meth:`lookup`."""
        return _session_keys(self, scope, key)

    def wait_index(self, env: str, tenant_id: str, team_id: str | None, user_id: str) -> str:
        """Return ``{ns}:waits:{<env>:<tenant>:<team>:<user>}``, where an absent team is empty."""
        owner = ":".join(escape(part) for part in (env, tenant_id, team_id or "", user_id))
        return f"{self._namespace}:waits:{{{owner}}}"

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
        """Return ``{ns}:{env}:{tenant}:{<key>}:lock``, or ``{ns}:lock:{<key>}`` for no scope."""
        if scope:
            return f"{self.record(scope, key)}:lock"
        return f"{self._namespace}:lock:{{{escape(key)}}}"

    def lock_keys(self, scope: str, key: str) -> tuple[str, str]:
        """Return :meth:`lock`, and the name of its queue."""
        lock = self.lock(scope, key)
        return lock, f"{lock}:queue"

    def inbox(self, scope: str, key: str) -> str:
        """Return ``{ns}:{env}:{tenant}:{<key>}:inbox``."""
        return f"{self.record(scope, key)}:inbox"

    def lease(self, lease: LeaseRef) -> str:
        """Return the name under which a lease is stored: of a HASH with ``fence``, ``lease``
        and ``by``.
        """
        name = self.inbox if lease.kind is LeaseKind.INBOX else self.lock
        return name(lease.scope, lease.key)

    def mailbox_keys(self, scope: str, key: str) -> tuple[str, ...]:
        """Return :meth:`record`, :meth:`lookup`, :meth:`inbox` and the name of its messages."""
        return _mailbox_keys(self, scope, key)

    def inbox_index(self, inbox: str) -> str:
        """Return the name of an inbox's index, ``{ns}:inbox:{<name>}``."""
        return f"{self._namespace}:inbox:{{{escape(inbox)}}}"

    def early_events(
        self, env: str, tenant_id: str, team_id: str | None, user_id: str, scope_hash: str
    ) -> str:
        """Return the name of a reply scope's early events, ``{ns}:early:{<owner>}:<hash>``.

        The owner is as in :meth:`wait_index`.
        """
        owner = ":".join(escape(part) for part in (env, tenant_id, team_id or "", user_id))
        return f"{self._namespace}:early:{{{owner}}}:{scope_hash}"

    def channel(self, topic: str) -> str:
        """Return the channel ``{ns}:bell:{topic}``, or the prefix of all channels for no topic.

        :param topic: made by the library, in printable ASCII.
        """
        return f"{self._namespace}:bell:{topic}"

    def pattern(self, scope: str) -> str:
        """Return the pattern for SCAN's MATCH that finds a scope's records."""
        return f"{self._records(scope)}*}}"

    def key_of(self, scope: str, record: bytes) -> SessionKey:
        """Return the session key in a record's name.

        :raises DecodeError: if :meth:`record` never made that name.
        """
        start = len(self._records(scope))
        try:
            key = unquote(record.decode("ascii")[start:-1], errors="strict")
        except UnicodeDecodeError:
            key = ""
        if not key or self.record(scope, key).encode() != record:
            raise DecodeError(key, "a name in the namespace is not of this library's making")
        return SessionKey(key)

    def _records(self, scope: str) -> str:
        return f"{self._namespace}:{scope.replace('/', ':')}:{{"


@lru_cache(maxsize=8192)
def _session_keys(names: KeyNames, scope: str, key: str) -> tuple[str, ...]:
    # A session that is written once is often written again soon.
    return names.record(scope, key), names.lookup(key)


@lru_cache(maxsize=8192)
def _mailbox_keys(names: KeyNames, scope: str, key: str) -> tuple[str, ...]:
    record, lookup = names.session_keys(scope, key)
    return record, lookup, f"{record}:inbox", f"{record}:inbox:mail"
