"""The hooks of a lifecycle, and the tasks that run each of them to its end."""

from __future__ import annotations

import logging
import math
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, cast, final

import anyio
import msgspec

from ..._core.tasks import run_to_completion, start_background
from ...errors import InvalidInputError
from ..callables import is_being_cancelled, is_cancellation, require_async, require_awaitable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .metrics import SessionMetrics

    Hook = Callable[[SessionMetrics], Awaitable[object]]

__all__ = ["HookName", "Hooks", "LifecycleHooks"]

HookName = Literal["on_start", "on_idle", "on_stalled", "on_expire", "on_close"]

_LOGGER: Final = logging.getLogger(__name__)
_CLOSE_TIMEOUT_SECS: Final = 10.0


class LifecycleHooks(msgspec.Struct, frozen=True, kw_only=True):
    """What to call when something happens to a session: coroutine functions, given its metrics.

    * An exception of a hook is logged and stops nothing.
    * All but ``on_start`` run in a task beside the caller's, in a copy of its context, and the
      caller waits for them. If it is cancelled meanwhile, hooks of the session in hand have 10 s
      more to end, those that had not begun too; then they are cancelled, and that is logged. A
      task of asyncio that is cancelled again waits no longer, and the hooks go on without it; the
      end of the event loop cuts them off.

    :ivar on_start: it was started.
    :ivar on_idle: it was idle for as long as it may; before ``on_expire``.
    :ivar on_stalled: its work has not moved for as long as that may take; once until it moves.
    :ivar on_expire: one of its limits ended it; before ``on_close``.
    :ivar on_close: it has ended, whatever the reason, which its metrics name.
    """

    on_start: Hook | None = None
    on_idle: Hook | None = None
    on_stalled: Hook | None = None
    on_expire: Hook | None = None
    on_close: Hook | None = None


@final
class Hooks:
    """Calls the hooks of a lifecycle.

    :raises InvalidInputError: naming ``hooks``, or the one of them at fault.
    """

    def __init__(self, hooks: LifecycleHooks) -> None:
        if not isinstance(cast("object", hooks), LifecycleHooks):
            given = type(hooks).__name__
            raise InvalidInputError("hooks", f"expected LifecycleHooks, got {given}")
        self._by_name: Final[dict[str, Hook]] = {}
        for name in LifecycleHooks.__struct_fields__:
            hook: Hook | None = getattr(hooks, name)
            if hook is not None:
                require_async(hook, name)
                self._by_name[name] = hook

    async def call(self, found: SessionMetrics, *names: HookName) -> None:
        """Call hooks, one after the other."""
        for name in names:
            hook = self._by_name.get(name)
            if hook is None:
                continue
            try:
                await require_awaitable(hook(found), name)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except BaseException as error:
                # What a hook awaited may have been cancelled, or the caller.
                if is_cancellation(error) and is_being_cancelled():
                    raise
                _LOGGER.exception("the hook %s failed", name)

    async def call_shielded(self, found: SessionMetrics, *names: HookName) -> None:
        """Call hooks of what cannot be told again, also if the caller is cancelled meanwhile."""
        if any(name in self._by_name for name in names):
            await _shielded(partial(self.call, found, *names))


async def _shielded(call: Callable[[], Awaitable[None]]) -> None:
    context, ended = copy_context(), anyio.Event()
    raised: list[BaseException] = []

    async def run() -> None:
        for variable, value in context.items():  # on trio, it has another context
            variable.set(value)
        try:
            await call()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - the caller's to raise
            raised.append(error)
        finally:
            ended.set()

    async def end() -> None:
        with anyio.move_on_after(_CLOSE_TIMEOUT_SECS):
            await ended.wait()
        if not ended.is_set():
            _LOGGER.error("hooks went on after their caller was cancelled, and were cancelled too")
        await task.stop()

    task = start_background(run, "greentic_session hooks")
    try:
        await ended.wait()
    except BaseException:
        await run_to_completion(end, "greentic_session end of hooks", math.inf)
        if not raised:
            raise
    if raised:
        raise raised[0]
