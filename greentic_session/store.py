"""The base class of every store, :class:`AsyncSessionStore`.

Its bases in :mod:`._core.verbs` contain every public verb once: argument checks, access check,
encoding and errors. A backend implements the small steps of :class:`.abc.store.StorePrimitives` on
encoded records. Its tests inherit those of :mod:`greentic_session.testing.contract`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal, cast, final, overload

from ._core import tenancy
from ._core.scan import SessionScan
from ._core.unreadable import OnError, decoder_of
from ._core.verbs.batches import BatchVerbs
from ._core.verbs.mutating import MutatingVerbs
from ._core.verbs.reading import ReadingVerbs
from ._core.verbs.writing import WritingVerbs
from .codec import CodecFactory, JsonCodec
from .config import DEFAULT_CLOSE_SECS, DEFAULT_MAX_PAYLOAD_BYTES
from .errors import InvalidInputError
from .model import C, TenantCtx
from .scoped import ScopedSessionStore, TenantSessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from ._core.evolution import Upgrades
    from .abc.records import Page, UnreadableSession
    from .config.backends import OnUnknown
    from .model import Versioned
    from .statistics import StoreStatistics

__all__ = ["AsyncSessionStore"]


class AsyncSessionStore(ReadingVerbs[C], WritingVerbs[C], BatchVerbs[C], MutatingVerbs[C]):
    """Stores sessions of many tenants.

    Use a store on one event loop at a time, from one thread, with ``async with``. The block may be
    entered several times, also concurrently. The last one that is left closes the store.

    Each write is one atomic step:

    * It makes the access check before it changes anything.
    * It sets ``updated_at`` from the store's clock, and computes the expiry from it.
    * It drops repeated outbox pairs.
    * It gives the lookup entry the same lifetime.

    A session is absent from the time ``now >= expires_at``.

    Any verb may raise :class:`InvalidInputError` (before any I/O) and
    :class:`StoreUnavailableError` (nothing written). A verb that writes may also raise
    :class:`StoreFullError` (nothing written) and :class:`OutcomeUnknownError` (written or not: read
    again). If the task of a write is cancelled, it is unknown whether the write happened.

    :param context_type: type of :attr:`Session.context`: a msgspec struct, dataclass, TypedDict,
        tagged union or ``dict``.
    :param codec: factory of the codec of that type.
    :param max_payload_bytes: size limit of one encoded session.
    :param verify: whether to check before each write that the session can be read back unchanged.
        The check refuses a wrong type inside the context. It also refuses values that would be read
        as different ones: in labels, in a ``dict`` state, or in an untyped part of a state. A tuple
        may be read as a list, and a value as an equal one of another class. The check costs up to
        one decoding per write.
    :param close_secs: how long :meth:`aclose` waits for running calls, in seconds or as a
        ``timedelta``.
    :param require_ctx: whether to refuse a call without ``ctx``, with :class:`InvalidInputError`.
        ``create``, ``put``, ``put_many`` and ``update_cas`` have no ``ctx``: the owner that they
        check is in the session. Give connector code a :meth:`scoped` view, which checks that too.
    :param unknown_fields: what a write does with stored fields that ``context_type`` does not know.
        ``"keep"`` writes them back with the session that was read. ``"refuse"`` raises
        :class:`SchemaVersionError`. A write that cannot keep them raises it in any case: below a
        list, map or union, in ``array_like`` structs, and with other codecs than
        :class:`JsonCodec`.
    :param schema_version: version of ``context_type``, at least 1. A stored record without a
        version has version 1. No write lowers the version of a live record.
    :param upgrades: functions that convert the context of an earlier version. The one under ``1``
        gets the JSON value of version 1 and returns that of version 2. They run on a read, and the
        next write stores the result. A version without a function needs no conversion.
    :ivar encoder: checks, encodes and decodes the store's sessions. For services on top of a store.
    """

    def __init__(
        self,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast has no effect
        *,
        codec: CodecFactory = JsonCodec,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        verify: bool = True,
        close_secs: timedelta | float = DEFAULT_CLOSE_SECS,
        require_ctx: bool = False,
        unknown_fields: OnUnknown = "keep",
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
    ) -> None:
        super().__init__(
            context_type,
            codec=codec,
            max_payload_bytes=max_payload_bytes,
            verify=verify,
            close_secs=close_secs,
            require_ctx=require_ctx,
            unknown_fields=unknown_fields,
            schema_version=schema_version,
            upgrades=upgrades,
        )

    @overload
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> AsyncIterator[Versioned[C]]: ...

    @overload
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: Literal["return"],
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]: ...

    @final
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: OnError = "raise",
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]:
        """Iterate over a tenant's live sessions, for operators.

        The order is undefined. A session that is live during the whole scan is returned exactly
        once. A session that is created or becomes absent during the scan may or may not be
        returned. A loop may end early, and needs no cleanup.

        :param ctx: env and tenant. If it has a team or user, only sessions that are accessible to
            that team or user are returned. Otherwise all of the tenant are.
        :param batch_size: number of records to examine in one step, 1 to 10000. A step returns
            about 1 MiB at most, and has a deadline of its own.
        :param fenced: return only sessions that :meth:`get` with this ``ctx`` would return.
        :param on_error: as in :meth:`get_many`, but ``"skip"`` leaves the session out. The
            iteration can continue after an error.
        :raises DecodeError: while iterating, as :meth:`get`, with ``on_error="raise"``.
        """
        self.check_open()
        scope, allowed = tenancy.allowed_owners_of(ctx)
        if type(batch_size) is not int or not 1 <= batch_size <= 10_000:
            raise InvalidInputError("batch_size", "expected an int from 1 to 10000")
        decode = decoder_of(self.encoder.decode, on_error)

        async def fetch(position: object | None) -> Page:
            self.check_open()
            return await self._page(scope, position, batch_size)

        def visible(owner: str) -> bool:
            if fenced or ctx.user_id is not None:
                return tenancy.allows(allowed, owner)
            return ctx.team_id is None or owner.startswith(allowed.shared)

        return SessionScan(fetch, visible, decode)

    # --- the store itself --------------------------------------------------------------------

    @final
    def scoped(self, ctx: TenantCtx) -> ScopedSessionStore[C]:
        """Return a view that applies the access check of ``ctx`` to every call.

        Give such a view to connector code, instead of the store.

        :raises InvalidInputError: if a field of ``ctx`` is invalid.
        """
        tenancy.allowed_owners_of(ctx)
        return ScopedSessionStore(self, ctx)

    @final
    def tenant(self, env: str, tenant_id: str) -> TenantSessionStore[C]:
        """Return a view of a tenant's sessions without the check of team and user.

        Use it in a service that proves the caller itself, such as one that compares a secret with
        the session.

        :raises InvalidInputError: if ``env`` or ``tenant_id`` is invalid.
        """
        return TenantSessionStore(self, env, tenant_id)

    @abstractmethod
    def statistics(self) -> StoreStatistics:
        """Return the store's counters, without I/O."""

    @final
    async def ping(self) -> bool:
        """Check that the backend can serve calls.

        :returns: ``True``.
        :raises StoreUnavailableError: if it cannot.
        """
        self.check_open()
        await self._ping()
        return True
