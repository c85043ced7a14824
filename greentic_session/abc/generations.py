"""The steps of generations that a backend implements.

Generations are an optional capability of a store. An owner of sessions has a *generation*: a random
text that replaces the stored one whenever the owner's sessions are ended all together. It closes
the gap between the check of a password and the session that follows from it:

1. A login *reads* the generation before it looks at the password.
2. It creates the session, and enters it where a later revocation finds it.
3. It *confirms* the generation. If that fails, a revocation has begun since step 1, so the login
   deletes its session again.

A revocation *raises* the generation, and then deletes the sessions that it finds. A login that
confirmed before has its session where the revocation finds it. Any other login cannot confirm.

A generation never returns, even if the stored one expires, if the server loses its data, or if a
clock is set back. So a login whose generation is gone cannot confirm, and starts again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from ..errors import InvalidInputError

__all__ = [
    "GenerationBackend",
    "GenerationOwner",
    "SupportsGenerations",
    "generation_backend_of",
]


class GenerationOwner(NamedTuple):
    """The owner of sessions that has a generation.

    :ivar scope: ``env/tenant``.
    :ivar owner: ``team/user``, as :mod:`greentic_session._core.tenancy` writes it.
    """

    scope: str
    owner: str


class GenerationBackend(ABC):
    """The steps on generations. Each of them is one atomic step.

    Calls raise as the verbs of the store do. A generation is opaque: compare it for equality only.
    """

    @abstractmethod
    async def read(self, owner: GenerationOwner, keep_ms: int) -> str:
        """Return the generation. If there is none, store a new one.

        It lives at least ``keep_ms`` from now on. It never lives shorter than before.

        :param keep_ms: the longest time until :meth:`confirm`, in milliseconds.
        """

    @abstractmethod
    async def confirm(self, owner: GenerationOwner, generation: str, ttl_ms: int) -> bool:
        """Check that the generation is the stored one, and let it outlive a session.

        :param generation: the result of :meth:`read`.
        :param ttl_ms: the longest lifetime of the session in milliseconds, touches included. 0 is
            permanent.
        :returns: ``False`` if it was raised, has expired, or was lost. Then nothing changed.
        """

    @abstractmethod
    async def raise_(self, owner: GenerationOwner, keep_ms: int) -> str:
        """Store and return a new generation. No earlier one can be confirmed from now on.

        It lives as long as the one before, and at least ``keep_ms``. If the call is retried, the
        generation may be raised twice.

        :param keep_ms: as in :meth:`read`.
        """


class SupportsGenerations(ABC):
    """A store with generations."""

    @abstractmethod
    def _generation_backend(self) -> GenerationBackend:
        """Return the steps of generations."""


def generation_backend_of(store: object) -> GenerationBackend:
    """Return the backend of generations of a store.

    :raises InvalidInputError: the store does not support generations.
    """
    if not isinstance(store, SupportsGenerations):
        raise InvalidInputError("store", f"{type(store).__name__} does not support generations")
    return store._generation_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
