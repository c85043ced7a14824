"""The tenant of a request, by its host."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias, cast, final

from .._core import tenancy
from ..errors import InvalidInputError
from ..model import TenantCtx
from .origins import parse_host

__all__ = ["Tenant", "TenantByHost"]

Tenant: TypeAlias = (
    TenantCtx
    | Mapping[str, TenantCtx]
    | Callable[[str], TenantCtx | Awaitable[TenantCtx | None] | None]
)
"""One tenant for all hosts, a tenant for each host, or a function of the host."""


_ByHost = Mapping[str, TenantCtx]


@final
class TenantByHost:
    """Finds the tenant of a host.

    :param tenant: the tenants. Hosts are in lower case, without a port.
    :raises InvalidInputError: a tenant is invalid, or names a user.
    """

    __slots__ = ("_by_host", "_find", "_sole")

    def __init__(self, tenant: Tenant) -> None:
        self._sole: Final = _checked(tenant) if isinstance(tenant, TenantCtx) else None
        self._by_host: Final = (
            {
                _host(host): _checked(ctx)
                for host, ctx in cast("_ByHost", cast("object", tenant)).items()
            }
            if isinstance(tenant, Mapping)
            else None
        )
        self._find: Final = None if isinstance(tenant, TenantCtx | Mapping) else tenant
        if self._find is not None and not callable(cast("object", self._find)):
            raise InvalidInputError("tenant", "expected a TenantCtx, a mapping or a function")

    async def of(self, host: bytes) -> TenantCtx | None:
        """Return the tenant of a ``Host`` header, ``None`` if the host is unknown."""
        if self._sole is not None:
            return self._sole
        text = host.decode("latin-1")
        if self._by_host is not None and text in self._by_host:
            return self._by_host[text]
        parsed = parse_host(text, "")
        if parsed is None:
            return None
        if self._by_host is not None:
            return self._by_host.get(parsed.host)
        if self._find is None:
            return None
        found = self._find(parsed.host)
        if inspect.isawaitable(found):
            found = await found
        return None if found is None else _checked(found)


def _checked(ctx: object) -> TenantCtx:
    if not isinstance(ctx, TenantCtx):
        raise InvalidInputError("tenant", f"expected TenantCtx, got {type(ctx).__name__}")
    tenancy.allowed_owners_of(ctx)
    if ctx.user_id is not None:
        raise InvalidInputError("tenant", "names a user: a login does that")
    return ctx


def _host(host: object) -> str:
    parsed = parse_host(host, "") if isinstance(host, str) else None
    if parsed is None or parsed.port:
        raise InvalidInputError("tenant", "expected hosts without a port")
    return parsed.host
