"""The bot of the README with two workers: two first messages of one chat start one flow."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from greentic_session import WaitRegistry, create_session_store

from ..support.markdown import pages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def bot() -> dict[str, Any]:
    (program,) = next(page for page in pages() if page.name == "README.md").programs
    code = program.code.replace("asyncio.run(main())", "")
    names: dict[str, Any] = {"__name__": "bot"}
    exec(code, names)  # noqa: S102 - our own page
    return names


class SlowStarter:
    """A registry whose worker found no wait, and is held before it starts a flow."""

    def __init__(self, waits: WaitRegistry[dict[str, Any]]) -> None:
        self._waits = waits
        self.found_none, self.go_on = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def resume(self, *args: Any, **options: Any) -> AsyncGenerator[Any]:
        async with self._waits.resume(*args, **options) as turn:
            yield turn

    async def register_wait(self, *args: Any, **options: Any) -> Any:
        self.found_none.set()
        await self.go_on.wait()
        return await self._waits.register_wait(*args, **options)


async def test_a_late_first_message_does_not_reset_a_flow_that_another_worker_advanced() -> None:
    on_message = bot()["on_message"]
    async with create_session_store("memory://") as store:
        waits = WaitRegistry(store)
        slow = SlowStarter(waits)
        replies: dict[str, str] = {}

        async def deliver(registry: Any, update_id: str, text: str) -> None:
            replies[update_id] = await on_message(registry, 42, 7, update_id, text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deliver, slow, "2", "ann@example.com")
            await slow.found_none.wait()
            await deliver(waits, "1", "Hi")
            await deliver(waits, "3", "Ann")
            slow.go_on.set()
    assert replies == {
        "1": "What is your name?",
        "3": "Hello Ann. What is your e-mail address?",
        "2": "Thank you, Ann.",
    }
