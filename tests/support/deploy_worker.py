"""A worker of one of two releases. Its arguments: URL, release, mode, number of writes and seed.

It prints how many of its writes succeeded and how many were refused.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any, Final

import msgspec

from greentic_session import (
    SchemaVersionError,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    create_session_store,
)

CTX: Final = TenantCtx(tenant_id="acme")
KEYS: Final = tuple(SessionKey(f"deploy-{number}") for number in range(16))


class OldPart(msgspec.Struct, frozen=True):
    old: int = 0


class OldState(msgspec.Struct, frozen=True):
    part: OldPart = OldPart()
    old: int = 0


class NewPart(msgspec.Struct, frozen=True):
    old: int = 0
    new: int = 0


class NewState(msgspec.Struct, frozen=True):
    part: NewPart = NewPart()
    old: int = 0
    new: int = 0


TYPES: Final = {"old": OldState, "new": NewState}


def session(key: SessionKey, state: object) -> Session[Any]:
    cursor = SessionCursor(flow_id="deploy", node_id="running")
    return Session(key=key, cursor=cursor, meta=SessionMeta.of(CTX), context=state)


async def work(url: str, release: str, mode: Any, writes: int, seed: str) -> tuple[int, int]:
    """Count up the own fields of the release, its nested one included."""
    dice = random.Random(seed)
    done = refused = 0

    def counted(given: Session[Any]) -> Session[Any]:
        state = given.context
        part = msgspec.structs.replace(state.part, **{release: getattr(state.part, release) + 1})
        changed = {"part": part, release: getattr(state, release) + 1}
        return msgspec.structs.replace(
            given.advance("running"), context=msgspec.structs.replace(state, **changed)
        )

    async with create_session_store(url, context_type=TYPES[release], unknown_fields=mode) as store:
        for _ in range(writes):
            try:
                await store.mutate(dice.choice(KEYS), counted, ctx=CTX)
            except SchemaVersionError:
                refused += 1
            else:
                done += 1
    return done, refused


if __name__ == "__main__":
    _, url, release, mode, writes, seed = sys.argv
    print(*asyncio.run(work(url, release, mode, int(writes), seed)))  # noqa: T201 - its result
