"""The web sessions of an application, on any store of this library."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, cast, final

import msgspec

from .._core import tenancy
from .._core.verbs.base import services_of
from .._validation import check_key, check_user
from ..abc.clock import SupportsClock
from ..abc.generations import SupportsGenerations, generation_backend_of
from ..errors import InvalidInputError, SessionConflictError
from ..merging import MergeConflict
from ..model import C
from ..store import AsyncSessionStore
from .bound import BoundSession
from .cookies import CookieJar
from .counters import Counters
from .devices import Devices, SigningIn
from .exchange import CURRENT, SCOPE_KEY, Exchange
from .generations import Generations
from .merging import StateMerger
from .origins import OriginCheck
from .policy import WebPolicy
from .session import WebSession
from .stamp import Stamp
from .store_clock import StoreClock
from .tenants import TenantByHost
from .tokens import TokenFormat

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from ..clock import Clock
    from ..model import SessionKey, TenantCtx
    from ..scoped import TenantSessionStore
    from .counters import Rejection, WebStatistics
    from .devices import WebDevice
    from .tenants import Tenant
    from .tokens import Token

__all__ = ["WebSessions", "current"]

_VIEWS: Final = 1024
"""Number of tenants whose views are kept. Others are made again."""


@final
class WebSessions(Generic[C]):
    """Typed sessions for requests and WebSockets.

    The caller opens and closes the store. One object serves all requests of a process.

    :param store: a store whose ``context_type`` is the type of the state.
    :param new: makes the state of a new session.
    :param tenant: the tenant of a request: one for all hosts, a mapping by host, or a function of
        the host that returns ``None`` for an unknown one. Hosts are in lower case, without a port.
    :param policy: the rules.
    :param on_rejected: a function that gets the reason of each refusal, and no id. See
        :data:`.Rejection`.
    :param clock: a clock to use instead of the store's, for tests.
    :raises InvalidInputError: an argument is invalid.
    """

    def __init__(
        self,
        store: AsyncSessionStore[C],
        *,
        new: Callable[[], C],
        tenant: Tenant,
        policy: WebPolicy = WebPolicy(),  # noqa: B008 - it is frozen
        on_rejected: Callable[[Rejection], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        given = cast("object", store)
        if not isinstance(given, AsyncSessionStore):
            raise InvalidInputError("store", f"expected a store, got {type(store).__name__}")
        if not isinstance(given, SupportsClock) or not isinstance(given, SupportsGenerations):
            raise InvalidInputError(
                "store", f"{type(store).__name__} does not support web sessions"
            )
        if not callable(cast("object", new)):
            raise InvalidInputError("new", "expected a function")
        if type(cast("object", policy)) is not WebPolicy:
            raise InvalidInputError("policy", f"expected WebPolicy, got {type(policy).__name__}")
        self.store: Final = store
        self.encoder: Final = services_of(store).encoder
        self.new: Final = new
        self.policy: Final = policy
        self.tenants: Final = TenantByHost(tenant)
        self.jar: Final = CookieJar(policy.cookie)
        self.tokens: Final = TokenFormat(policy.signing_key_bytes)
        self.origins: Final = OriginCheck(policy.origins, require_origin=policy.require_origin)
        self.counters: Final = Counters(on_rejected)
        self.clock: Final = StoreClock(given, clock)
        self.devices: Final = Devices(self)
        self.generations: Final = Generations(generation_backend_of(given), policy)
        self._view_of: Final = lru_cache(_VIEWS)(store.tenant)
        self._merger: Final = StateMerger(store.context_type, policy.on_conflict)

    # --- the session of a request ----------------------------------------------------------------

    async def of(self, scope_or_connection: object) -> WebSession[C]:
        """Return the session of a request or WebSocket. The first call reads it from the store.

        :param scope_or_connection: the ASGI scope, or an object with it as ``scope``, such as a
            request of a framework.
        :raises InvalidInputError: :class:`SessionMiddleware` with these sessions did not see it.
        :raises StoreUnavailableError: the store cannot be read. The response is a 503, whatever the
            handler answers.
        """
        scope: object = getattr(scope_or_connection, "scope", scope_or_connection)
        is_scope = isinstance(scope, Mapping)
        exchange = cast("Mapping[str, object]", scope).get(SCOPE_KEY) if is_scope else None
        return await self._checked(exchange).load()

    async def current(self) -> WebSession[C]:
        """Return the session of the request that the calling task handles, as :meth:`of`."""
        return await self._checked(CURRENT.get()).load()

    def _checked(self, exchange: object) -> Exchange[C]:
        if not isinstance(exchange, Exchange):
            raise InvalidInputError("scope", "expected a request that SessionMiddleware has seen")
        found = cast("Exchange[C]", exchange)
        if found.sessions is not self:
            raise InvalidInputError("scope", "SessionMiddleware has other sessions")
        return found

    async def load(self, exchange: Exchange[C]) -> WebSession[C]:
        """Read the session of a request. For the library's own modules: use :meth:`of`."""
        bound = BoundSession(exchange)
        value = self.jar.read(exchange.cookies) if exchange.cookies else None
        token = None if value is None else self.tokens.read(value)
        if token is None or not await self._adopt(bound, token):
            if value is not None and token is None:
                self.counters.reject("malformed_token")
            bound.begin_again(self.new())
        return WebSession(bound)

    async def _adopt(self, bound: BoundSession[C], token: Token) -> bool:
        """Read the session of a token.

        :returns: whether the token opens one.
        """
        self.counters.add("loads")
        now_ms = await self.clock.now_ms()
        found = await self.view(bound.ctx).get(token.key)
        stamp = None if found is None else Stamp.of(found.session.meta)
        if (
            found is None
            or stamp is None
            or found.session.meta.team_id != bound.ctx.team_id
            or (stamp.x and now_ms >= stamp.x)
        ):
            # An unknown token is never adopted, and its cookie is not removed.
            self.counters.reject("unknown_token")
        elif (presented := stamp.presented(token, now_ms)) is None:
            self.counters.reject("replaced")
        else:
            bound.token, bound.presented = token, (stamp, presented)
            bound.adopt(found, stamp)
            return True
        return False

    # --- the sessions of a user ------------------------------------------------------------------

    async def list(self, ctx: TenantCtx) -> list[WebDevice]:
        """Return the live sessions of a user, oldest login first (ASVS 5.0 7.5.2).

        :param ctx: the tenant and the user.
        """
        return await self.devices.of_user(ctx, _user_of(ctx))

    async def revoke(self, ctx: TenantCtx, key: SessionKey) -> bool:
        """End one session of a user.

        :param ctx: the tenant and the user.
        :param key: the key of the session, as :meth:`list` returns it.
        :returns: ``False`` if it had ended, or belongs to another user.
        """
        return await self.devices.revoke(self.user_ctx(ctx, _user_of(ctx)), check_key(key))

    async def revoke_all(self, ctx: TenantCtx, *, keep: WebSession[C] | None = None) -> int:
        """End every session of a user, and every login that began before (ASVS 5.0 7.4.3).

        Call this after the new password was stored. If it raises, call it again.

        :param ctx: the tenant and the user.
        :param keep: a session to keep, such as the one that changed the password.
        :returns: how many sessions were ended.
        """
        kept = None if keep is None or keep.versioned is None else keep.versioned.session.key
        return await self.devices.revoke_all(self.user_ctx(ctx, _user_of(ctx)), kept)

    @asynccontextmanager
    async def signing_in(self, ctx: TenantCtx, user_id: str) -> AsyncGenerator[SigningIn[C]]:
        """Log in without a race against :meth:`revoke_all`.

        Check the password inside the block. If the user's sessions are revoked between the
        beginning of the block and ``attempt.login(session)``, the login is undone.

        :param ctx: the tenant.
        :param user_id: the user.
        """
        owner = self.user_ctx(ctx, check_user(user_id))
        yield SigningIn(self, owner, await self.generations.read(owner))

    def statistics(self) -> WebStatistics:
        """Return the counters, without I/O."""
        return self.counters.statistics()

    # --- for the library's own modules -----------------------------------------------------------

    def user_ctx(self, ctx: TenantCtx, user_id: str) -> TenantCtx:
        """Return the caller that a user of a tenant is."""
        owner = msgspec.structs.replace(ctx, user_id=user_id, attributes={})
        tenancy.allowed_owners_of(owner)
        return owner

    @property
    def is_closed(self) -> bool:
        """Whether the store was closed."""
        return self.store.statistics().closed

    async def keys_of(self, owner: TenantCtx) -> tuple[SessionKey, ...]:
        """Return the keys of the sessions of a user."""
        keys = self.store.find_keys(owner, user_id=owner.user_id, fenced=True)
        return tuple([key async for key in keys])

    def view(self, ctx: TenantCtx) -> TenantSessionStore[C]:
        """Return the view of a tenant, without a check of the user. The token proves the caller."""
        return self._view_of(ctx.env, ctx.tenant_id)

    def merged(self, base: C, mine: C, theirs: C) -> C:
        """Return the state with the changes of two parallel requests.

        :raises SessionConflictError: both changed the same plain field, and the policy rejects it.
        """
        merged = self._merger.merge(base, mine, theirs)
        if isinstance(merged, MergeConflict):
            self.counters.reject("conflict")
            raise SessionConflictError(merged.fields)
        return merged


async def current() -> WebSession[Any]:  # Any: the task does not know the type of the state
    """Return the session of the request that the calling task handles.

    :meth:`WebSessions.current` does the same, with the type of the state.

    :raises InvalidInputError: the task handles no request that :class:`SessionMiddleware` has seen.
    """
    exchange = CURRENT.get()
    if exchange is None:
        raise InvalidInputError("scope", "expected a request that SessionMiddleware has seen")
    return await exchange.load()


def _user_of(ctx: TenantCtx) -> str:
    tenancy.allowed_owners_of(ctx)
    if ctx.user_id is None:
        raise InvalidInputError("ctx", "has no user")
    return ctx.user_id
