"""Generations on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from .._compat import override
from ..abc.generations import GenerationBackend, GenerationOwner
from ..abc.records import DONE, Verdict, mint_incarnation
from .replies import parsing_write_reply, wrong_type_of
from .scripts.generations import (
    CONFIRM_GENERATION,
    RAISE_GENERATION,
    READ_GENERATION,
    confirm_generation_arguments,
    raise_generation_arguments,
    read_generation_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Reply
    from .transport.script import Script

__all__ = ["RedisGenerations"]


@final
class RedisGenerations(GenerationBackend):
    """Runs each step as one script. The key is in the slot of the owner's index of waits.

    :param client: the client of the store.
    :param names: the key names of the store.
    """

    def __init__(self, client: RedisClient, names: KeyNames) -> None:
        self._client: Final = client
        self._names: Final = names

    @override
    async def read(self, owner: GenerationOwner, keep_ms: int) -> str:
        arguments = read_generation_arguments(keep_ms, mint_incarnation())
        return _generation(await self._run(READ_GENERATION, owner, arguments))

    @override
    async def confirm(self, owner: GenerationOwner, generation: str, ttl_ms: int) -> bool:
        arguments = confirm_generation_arguments(ttl_ms, generation)
        reply = await self._run(CONFIRM_GENERATION, owner, arguments)
        with parsing_write_reply():
            return Verdict(reply[0]) is DONE

    @override
    async def raise_(self, owner: GenerationOwner, keep_ms: int) -> str:
        arguments = raise_generation_arguments(keep_ms, mint_incarnation())
        return _generation(await self._run(RAISE_GENERATION, owner, arguments))

    async def _run(self, script: Script, owner: GenerationOwner, arguments: Arguments) -> Reply:
        env, tenant_id = owner.scope.split("/")
        team_id, user_id = owner.owner.split("/", 1)
        name = self._names.generation(env, tenant_id, team_id, user_id)
        try:
            return await self._client.run(script, (name,), arguments)
        except ForeignValueError:
            raise wrong_type_of("a generation") from None
        except UnconfirmedError as error:
            raise error.plain() from None


def _generation(reply: Reply) -> str:
    with parsing_write_reply():
        _, generation = reply
        return str(generation.decode())
