"""The verbs that read sessions whose keys are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final, overload

from ..._validation import check_key, require_sequence
from ...abc.records import Record
from ...errors import SessionNotFoundError, TenantMismatchError
from ...model import C
from .. import tenancy
from ..unreadable import OnError, decoder_of
from .base import VerbBase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...abc.records import UnreadableSession
    from ...model import SessionKey, TenantCtx, Versioned

__all__ = ["ReadingVerbs"]


class ReadingVerbs(VerbBase[C]):
    """Reads sessions by key."""

    @final
    async def get(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> Versioned[C] | None:
        """Return the live session and its token.

        :param key: the session's key.
        :param ctx: the caller. Only a session of its tenant is found, and the access check applies.
            ``None`` finds the tenant by lookup, without an access check.
        :returns: ``None`` if absent or expired.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: several tenants have the key, and there is no ``ctx``.
        :raises DecodeError: the stored bytes are not of the store's session type.
        """
        if self._closed:
            self._check_open()
        key = check_key(key)
        until = self._deadline()
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        record = None if scope is None else self._read(scope, key, until)
        if record is not None and not isinstance(record, Record):
            record = await record
        return None if record is None else self._opened(key, record, allowed)

    @final
    async def require(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> Versioned[C]:
        """Return the live session and its token, as :meth:`get`, or raise if there is none.

        :param key: the session's key.
        :param ctx: the caller, as in :meth:`get`.
        :raises SessionNotFoundError: absent or expired.
        :raises TenantMismatchError: as :meth:`get`.
        :raises AmbiguousKeyError: as :meth:`get`.
        :raises DecodeError: as :meth:`get`.
        """
        found = await self.get(key, ctx=ctx)
        if found is None:
            raise SessionNotFoundError(key)
        return found

    @final
    async def exists(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> bool:
        """Return whether a live session has the key, without reading its state.

        :param key: the session's key.
        :param ctx: the caller, as in :meth:`get`.
        :returns: ``False`` if absent or expired. ``True`` also for a state that cannot be decoded.
        :raises TenantMismatchError: as :meth:`get`.
        :raises AmbiguousKeyError: as :meth:`get`.
        :raises DecodeError: the owner of the stored record cannot be read.
        """
        self._check_open()
        key = check_key(key)
        until = self._deadline()
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        owner = None if scope is None else await self._read_owner(scope, key, until)
        if owner is None:
            return False
        if not tenancy.allows(allowed, owner):
            raise TenantMismatchError(key)
        return True

    @overload
    async def get_many(
        self,
        keys: Sequence[SessionKey],
        *,
        ctx: TenantCtx,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> list[Versioned[C] | None]: ...

    @overload
    async def get_many(
        self, keys: Sequence[SessionKey], *, ctx: TenantCtx, on_error: Literal["return"]
    ) -> list[Versioned[C] | UnreadableSession | None]: ...

    @final
    async def get_many(
        self, keys: Sequence[SessionKey], *, ctx: TenantCtx, on_error: OnError = "raise"
    ) -> Sequence[Versioned[C] | UnreadableSession | None]:
        """Return several sessions of one tenant, in as few round trips as their size allows.

        Up to 16 small sessions take one request to the server. For more, the store first requests
        their sizes, and then about 1 MiB at a time. The deadline applies to each of these steps.

        :param keys: the keys, which may repeat.
        :param ctx: the caller.
        :param on_error: what to return for a session that cannot be read. ``"raise"`` raises its
            error, ``"skip"`` returns ``None``, ``"return"`` returns an :class:`UnreadableSession`.
        :returns: the sessions in the order of ``keys``, ``None`` for each absent or expired one.
        :raises TenantMismatchError: wrong team or user for one of them.
        :raises DecodeError: as :meth:`get`, with ``on_error="raise"``.
        """
        self._check_open()
        require_sequence(keys, "keys")
        keys = [check_key(key) for key in keys]
        scope, allowed = tenancy.allowed_owners_of(ctx)
        decode = decoder_of(self._encoder.decode, on_error)
        found: list[Versioned[C] | UnreadableSession | None] = []
        while len(found) < len(keys):
            left = keys[len(found) :]
            some = list(zip(left, await self._read_many(scope, left), strict=False))
            for key, record in some:
                owner = None if record is None else record.owner
                if owner is not None and not tenancy.allows(allowed, owner):
                    raise TenantMismatchError(key)
            found += [None if record is None else decode(key, record) for key, record in some]
        return found
