"""Tests of the approval example: as a program, with more people, and with a worker that dies."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest

from greentic_session import WaitRegistry, create_session_store

from .test_examples import imported, output_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROUNDS = 6
EXPECTED = f"""\
Ada and Grace press at the same moment: {ROUNDS} requests, {ROUNDS} approved once, \
{ROUNDS} answered approved, {ROUNDS} answered already approved
Grace presses during Ada's turn: {ROUNDS} requests, {ROUNDS} approved once, \
{ROUNDS} answered approved, {ROUNDS} answered already approved
Grace presses after Ada's turn: {ROUNDS} requests, {ROUNDS} approved once, \
{ROUNDS} answered approved, {ROUNDS} answered already approved
Ada's press comes twice at the same moment: {ROUNDS} requests, {ROUNDS} approved once, \
{2 * ROUNDS} answered approved
Ada's press comes again after her turn: {ROUNDS} requests, {ROUNDS} approved once, \
{2 * ROUNDS} answered approved
No press in time: Ada's press is answered too late
"""


@pytest.fixture(scope="module")
def approval() -> Iterator[ModuleType]:
    with imported("approval") as module:
        yield module


@pytest.fixture(params=["memory", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    return f"{request.getfixturevalue('valkey_url')}?deadline=20&namespace=test:{uuid4().hex}"


def test_approval_as_a_program_prints_its_result(url: str) -> None:
    assert output_of("approval.py", "--url", url, "--rounds", ROUNDS) == EXPECTED


def test_one_of_many_concurrent_presses_is_accepted(approval: ModuleType, url: str) -> None:
    people = [f"person {number}" for number in range(16)]
    answers: Counter[str] = Counter()

    async def press_all() -> Any:
        async with create_session_store(url, context_type=approval.Deployment) as store:
            workers = [approval.Worker(store) for _ in people]
            request = await workers[0].ask("billing 4.2")

            async def press(worker: Any, person: str) -> None:
                answers[await worker.press(request, person)] += 1

            async with anyio.create_task_group() as tasks:
                for worker, person in zip(workers, people, strict=True):
                    tasks.start_soon(press, worker, person)
            assert sum(worker.decided for worker in workers) == 1
            found = await store.get(request, ctx=approval.DESK)
            assert found is not None
            return found.session

    session = anyio.run(press_all)
    winner = session.context.approved_by
    assert answers == {"approved": 1, f"already approved by {winner}": 15}
    assert session.cursor.node_id == "deploy"


def test_a_press_is_accepted_after_the_worker_of_another_died(
    approval: ModuleType, url: str
) -> None:
    async def press() -> tuple[str, str]:
        async with create_session_store(url, context_type=approval.Deployment) as store:
            worker = approval.Worker(store)
            request = await worker.ask("billing 4.2")
            dead = await WaitRegistry(store).claim(
                approval.DESK,
                approval.DESK_ID,
                approval.scope_of(request),
                event_id="press of Ada",
                lease=0.03,
            )
            assert not dead.ended
            # The dead worker claimed the flow for Ada's press. Grace presses second, and Ada's
            # press is repeated.
            return await worker.press(request, "Grace"), await worker.press(request, "Ada")

    assert anyio.run(press) == ("approved", "already approved by Grace")


def test_a_press_after_the_expiry_is_too_late(approval: ModuleType, url: str) -> None:
    async def press_late() -> tuple[str, int]:
        async with create_session_store(url, context_type=approval.Deployment) as store:
            worker = approval.Worker(store)
            request = await worker.ask("billing 4.2", ttl_secs=0.02)
            await anyio.sleep(0.03)
            told = await worker.press(request, "Ada")
            return told, len([found async for found in store.scan(approval.DESK)])

    assert anyio.run(press_late) == ("too late", 0)
