"""A rolling deploy: workers of two releases write the same sessions, and no field is lost."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from greentic_session import create_session_store
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..support.deploy_worker import CTX, KEYS, NewState, session

if TYPE_CHECKING:
    from .report import Report

WORKERS: Final = ("old", "new", "old", "new")


async def _deploy(report: Report, mode: str) -> None:
    with LocalServer(valkey_binary()) as server:
        url = f"{server.url}?namespace=deploy:{uuid4().hex}&deadline=20"
        async with create_session_store(url, context_type=NewState) as store:
            for key in KEYS:
                await store.create(session(key, NewState()))
            writes = -(-report.wanted // len(WORKERS))
            counts = await asyncio.gather(
                *(
                    _worker(url, release, mode, str(writes), f"{report.seed} {number}")
                    for number, release in enumerate(WORKERS)
                )
            )
            done = {"old": 0, "new": 0}
            for release, (written, refused) in zip(WORKERS, counts, strict=True):
                done[release] += written
                report.tally[f"{release}: written"] += written
                report.tally[f"{release}: refused"] += refused
            states = [found.session.context async for found in store.scan(CTX)]
    for release, written in done.items():
        outer = sum(getattr(state, release) for state in states)
        nested = sum(getattr(state.part, release) for state in states)
        report.expect(
            outer == nested == written,
            f"{written} writes of {release} workers left {outer} and nested {nested}",
        )
    report.count = writes * len(WORKERS)


async def _worker(*arguments: str) -> tuple[int, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.deploy_worker", *arguments, stdout=-1
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, "a worker failed"
    written, refused = output.split()
    return int(written), int(refused)


keeping = partial(_deploy, mode="keep")
refusing = partial(_deploy, mode="refuse")
