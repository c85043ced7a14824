"""The generation of each user, which a login confirms and a revocation raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from .._core import tenancy
from ..abc.generations import GenerationOwner

if TYPE_CHECKING:
    from ..abc.generations import GenerationBackend
    from ..model import TenantCtx
    from .policy import WebPolicy

__all__ = ["Generations"]

_KEEP_MS: Final = 3_600_000
"""The longest time from the beginning of a login to its end."""


@final
class Generations:
    """Reads, confirms and raises generations.

    :param backend: the steps of the store.
    :param policy: the rules, which say how long a session lives at most.
    """

    __slots__ = ("_backend", "_lifetime_ms")

    def __init__(self, backend: GenerationBackend, policy: WebPolicy) -> None:
        self._backend: Final = backend
        # A generation outlives every session that it covers. 0 is permanent.
        longest = policy.absolute_ms or (0 if policy.rolling else policy.idle_ms)
        self._lifetime_ms: Final = longest

    async def read(self, user: TenantCtx) -> str:
        """Return the generation of a user."""
        return await self._backend.read(_owner(user), _KEEP_MS)

    async def confirm(self, user: TenantCtx, generation: str) -> bool:
        """Return whether the generation is still that of the user."""
        return await self._backend.confirm(_owner(user), generation, self._lifetime_ms)

    async def increase(self, user: TenantCtx) -> None:
        """Raise the generation, so that no login that read an earlier one can confirm it."""
        await self._backend.raise_(_owner(user), _KEEP_MS)


def _owner(user: TenantCtx) -> GenerationOwner:
    found = tenancy.owner_of(user)
    return GenerationOwner(found.scope, found.owner)
