"""The hooks of a lifecycle, and the tasks that run each of them to its end."""

from __future__ import annotations

import logging
import math
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, cast, final

import anyio
import msgspec

from ..._core.functions import require_async, require_awaitable
from ..._core.tasks import run_to_completion, start_background
from ...errors import InvalidInputError
from ..callables import is_being_cancelled, is_cancellation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .metrics import SessionMetrics

    Hook = Callable[[SessionMetrics], Awaitable[object]]

__all__ = ["HookName", "Hooks", "LifecycleHooks"]

HookName = Literal["on_start", "on_idle", "on_stalled", "on_expire", "on_close"]

_LOGGER: Final = logging.getLogger(__name__)
_CLOSE_TIMEOUT_SECS: Final = 10.0


class LifecycleHooks(msgspec.Struct, frozen=True, kw_only=True):
    """Coroutine functions to call when something happens to a session, with its metrics.

    * An exception of a hook is logged, and has no other effect. ``KeyboardInterrupt`` and
      ``SystemExit`` are raised.
    * Except for ``on_start``, hooks run in a separate task, in a copy of the caller's context. The
      caller waits for them.
    * If the caller is cancelled meanwhile, the hooks of the current session have 10 s to end. This
      includes hooks that have not begun yet. Then they are cancelled, and this is logged.
    * On asyncio, a caller that is cancelled again stops waiting. The hooks continue without it,
      until the event loop ends.

    :ivar on_start: called after a session was started.
    :ivar on_idle: called after a session reached its idle limit, before ``on_expire``.
    :ivar on_stalled: called once when the open work of a session has stalled. After progress, it
        may be called again.
    :ivar on_expire: called after a limit has ended a session, before ``on_close``.
    :ivar on_close: called after a session has ended for any reason. Its metrics contain the reason.
    """

    on_start: Hook | None = None
    on_idle: Hook | None = None
    on_stalled: Hook | None = None
    on_expire: Hook | None = None
    on_close: Hook | None = None


@final
class Hooks:
    """Calls the hooks of a lifecycle.

    :raises InvalidInputError: naming ``hooks``, or the invalid hook.
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
        """Call hooks one after the other."""
        for name in names:
            hook = self._by_name.get(name)
            if hook is None:
                continue
            try:
                await require_awaitable(hook(found), name)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except BaseException as error:
                # A call that the hook awaited may have been cancelled, not the caller.
                if is_cancellation(error) and is_being_cancelled():
                    raise
                _LOGGER.exception("the hook %s failed", name)

    async def call_shielded(self, found: SessionMetrics, *names: HookName) -> None:
        """Call hooks to their end, also if the caller is cancelled meanwhile.

        This is for events that are reported only once.
        """
        if any(name in self._by_name for name in names):
            await _shielded(partial(self.call, found, *names))


async def _shielded(call: Callable[[], Awaitable[None]]) -> None:
    context, ended = copy_context(), anyio.Event()
    raised: list[BaseException] = []

    async def run() -> None:
        for variable, value in context.items():  # on trio, the task starts with another context
            variable.set(value)
        try:
            await call()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            raised.append(error)
        finally:
            ended.set()

    async def end() -> None:
        with anyio.move_on_after(_CLOSE_TIMEOUT_SECS):
            await ended.wait()
        if not ended.is_set():
            _LOGGER.error("hooks exceeded their time limit after their caller was cancelled")
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
