"""Tests of workers that pause between two steps, and continue after others have acted."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from greentic_session.testing.harness import RedisHarness

from ..support.waits import CTX, owner
from .test_wait_crashes import ACTS, GRACE_SECS, HERE, MEMORY_SECS, REFUSALS, THERE, Died, Scene

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .test_wait_crashes import Act

pytestmark = pytest.mark.anyio


async def nothing(_scene: Scene) -> None:
    pass


async def look(scene: Scene) -> None:
    await scene.sound.list_waits_for_user(CTX, scene.user)


async def resume_here(scene: Scene) -> None:
    await scene.resume(HERE, "one reply")


async def resume_there(scene: Scene) -> None:
    await scene.resume(THERE, "one reply")


async def clear(scene: Scene) -> None:
    await scene.sound.clear_wait(CTX, scene.user, HERE)


async def touch(scene: Scene) -> None:
    await scene.store.touch(scene.session("form").key, 1000, ctx=owner(scene.user))


async def overwrite(scene: Scene) -> None:
    await scene.store.put(scene.session("form"))


async def delete(scene: Scene) -> None:
    await scene.store.delete(scene.session("form").key, ctx=owner(scene.user))


async def register_here(scene: Scene) -> None:
    await scene.sound.register_wait(CTX, scene.user, HERE, scene.session("form"))


async def register_there(scene: Scene) -> None:
    await scene.sound.register_wait(CTX, scene.user, THERE, scene.session("form"))


async def register_a_rival(scene: Scene) -> None:
    await scene.sound.register_wait(CTX, scene.user, HERE, scene.session("rival"))


async def register_and_resume(scene: Scene) -> None:
    await register_here(scene)
    await resume_here(scene)


async def register_elsewhere_and_back(scene: Scene) -> None:
    await register_there(scene)
    await register_here(scene)


OTHERS: Final[list[Callable[[Scene], Awaitable[None]]]] = [
    *(nothing, look, resume_here, resume_there, clear, register_here, register_there),
    *(register_a_rival, register_and_resume, register_elsewhere_and_back),
    *(touch, overwrite, delete),
]


@pytest.mark.parametrize("dies", [False, True], ids=["goes-on", "goes-on-and-dies"])
@pytest.mark.parametrize("begin", ACTS, ids=lambda begin: begin.__name__)
async def test_a_worker_that_stands_still_between_two_steps_comes_back_to_what_others_did(
    valkey_url: str, begin: Callable[[Scene], Act], *, dies: bool
) -> None:
    failures: list[str] = []
    async with RedisHarness(valkey_url) as harness:
        store = await harness.open()
        scenes = [Scene(store, 0)]
        steps = await steps_of(scenes[0], begin)
        for others in OTHERS:
            for halts in range(1, steps):
                for more in range(1, steps - halts) if dies else [None]:
                    scene = Scene(store, len(scenes))
                    scenes.append(scene)
                    await interrupted(scene, begin, others, halts, more)
                    try:
                        await scene.assert_agreed()
                    except AssertionError as error:
                        dead = "" if more is None else f" and died {more} later"
                        failures.append(
                            f"halted after {halts}{dead}, while others did {others.__name__}:"
                            f" {str(error).splitlines()[0]}"
                        )
        assert not failures, "\n".join(failures)
        await harness.advance(GRACE_SECS)
        for scene in scenes:
            await scene.assert_agreed()
            await scene.assert_repaired()
            await scene.end_everything()
        await harness.advance(MEMORY_SECS)
        assert await harness.residue() == []


async def steps_of(scene: Scene, begin: Callable[[Scene], Act]) -> int:
    act = begin(scene)
    call = await anext(act)
    scene.mortal.live()
    await call()
    await act.aclose()
    return scene.mortal.taken


async def interrupted(
    scene: Scene,
    begin: Callable[[Scene], Act],
    others: Callable[[Scene], Awaitable[None]],
    halts: int,
    more: int | None,
) -> None:
    act = begin(scene)
    call = await anext(act)
    scene.mortal.live(halts, halts=True)

    async def doomed() -> None:
        with suppress(Died, *REFUSALS):
            await call()

    async with asyncio.timeout(20):
        worker = asyncio.create_task(doomed())
        await scene.mortal.halted.wait()
        with suppress(*REFUSALS):  # there may be nothing to do, or another worker does it
            await others(scene)
        scene.mortal.live(more)
        scene.mortal.goes_on.set()
        await worker
    await act.aclose()
