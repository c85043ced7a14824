"""The base class of every store, :class:`AsyncSessionStore`.

Its bases in :mod:`._core.verbs` contain every public verb once: argument checks, access check,
encoding and errors. A backend implements the small steps of :class:`.abc.store.StorePrimitives` on
encoded records. Its tests inherit those of :mod:`greentic_session.testing.contract`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, cast, final

from ._core import tenancy
from ._core.verbs.batches import BatchVerbs
from ._core.verbs.mutating import MutatingVerbs
from ._core.verbs.reading import ReadingVerbs
from ._core.verbs.writing import WritingVerbs
from .codec import CodecFactory, JsonCodec
from .config import DEFAULT_CLOSE_SECS, DEFAULT_MAX_PAYLOAD_BYTES
from .finding import SessionFinding
from .model import C, TenantCtx
from .scoped import ScopedSessionStore, TenantSessionStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from ._core.evolution import Upgrades
    from .config.backends import OnUnknown
    from .statistics import StoreStatistics

__all__ = ["AsyncSessionStore"]


class AsyncSessionStore(
    ReadingVerbs[C], WritingVerbs[C], BatchVerbs[C], MutatingVerbs[C], SessionFinding[C]
):
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
    :param indexed_labels: names of up to 16 labels by which :meth:`find` finds sessions. Values of
        other types than str, int and bool are not indexed.
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
        indexed_labels: Sequence[str] = (),
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
            indexed_labels=indexed_labels,
        )

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
        self._check_open()
        await self._ping()
        return True
