"""Tests of invalid arguments to a lifecycle, which are refused before any change."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from greentic_session import ManualClock
from greentic_session.errors import InvalidInputError
from greentic_session.ordering import LifecycleHooks, SessionLifecycle
from tests.support.dispatcher import both
from tests.support.lifecycle import A, make

pytestmark = pytest.mark.anyio


async def _iterate(_: object) -> Any:
    yield


def _later(told: object) -> Any:
    return AsyncMock()(told)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("limits", {"limits": {"idle_secs": 1}}),
        ("limits", {"limits": 0}),
        ("hooks", {"hooks": {"on_start": 1}}),
        ("hooks", {"hooks": LifecycleHooks}),
        ("on_close", {"hooks": LifecycleHooks(on_close=5)}),  # type: ignore[arg-type]
        ("on_idle", {"hooks": LifecycleHooks(on_idle=_iterate)}),
        ("clock", {"clock": 5}),
        ("clock", {"clock": ManualClock}),
    ],
)
def test_bad_arguments_are_refused(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        SessionLifecycle(**arguments)
    assert refused.value.field == field


@pytest.mark.parametrize("hook", [AsyncMock(), MagicMock(), _later])
def test_hooks_that_may_serve_are_taken(hook: Any) -> None:
    SessionLifecycle(hooks=LifecycleHooks(on_start=hook))


@both
@pytest.mark.parametrize("key", [5, None, [], "", "a\n"])
async def test_a_bad_key_is_refused_by_every_verb(key: Any) -> None:
    lifecycle, _ = make()
    await lifecycle.start(A)
    verbs = (
        lifecycle.touch,
        lifecycle.record_message,
        lifecycle.begin_work,
        lifecycle.end_work,
        lifecycle.should_close,
        lifecycle.metrics_of,
    )
    for verb in verbs:
        with pytest.raises(InvalidInputError) as refused:
            verb(key)
        assert refused.value.field == "key"
    for later in (lifecycle.start, lifecycle.stop):
        with pytest.raises(InvalidInputError) as refused:
            await later(key)
        assert refused.value.field == "key"
    assert key not in lifecycle


@both
async def test_a_hook_that_returns_nothing_to_await_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks = LifecycleHooks(on_start=MagicMock(return_value=None))
    lifecycle = SessionLifecycle(hooks=hooks, clock=ManualClock())
    await lifecycle.start(A)
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert str(logged.exc_info[1]) == "on_start: returned NoneType, not an awaitable"
