"""Tests of faulty connections: requests and replies lost, cut or late, and silent servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from greentic_session.testing.proxy import Fate, FaultProxy, always, at_random

from ..support.redis import SEED
from .invariants import at_work

if TYPE_CHECKING:
    from collections.abc import Callable

    from greentic_session.testing.topologies import StandaloneRig

    from .invariants import Company

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

DEADLINE_SECS: Final = 0.5
CASES: Final = {
    "request lost before it arrives": Fate.REFUSE,
    "request lost in silence": Fate.SWALLOW,
    "reply lost with its connection": Fate.LOSE,
    "reply lost in silence": Fate.SILENCE,
    "reply cut in the middle": Fate.CUT,
    "reply later than the timeout": Fate.LATE,
    "request later than the timeout": Fate.DELAY,
}


@pytest.mark.parametrize("fate", CASES.values(), ids=CASES)
async def test_request_lost_reply_lost_reply_cut_in_the_middle_reply_later_than_the_timeout(
    standalone: StandaloneRig, fate: Fate
) -> None:
    """The histories show that reports are true and no conflict is false."""
    line = at_random(SEED, 0.05, [fate])
    delay_secs = 1.5 * DEADLINE_SECS
    async with FaultProxy(standalone.node.port, line, delay_secs=delay_secs) as proxy:
        async with at_work(
            proxy.url, standalone.url, nodes=standalone.nodes, deadline_secs=DEADLINE_SECS
        ) as company:
            while proxy.met[fate] < 25:
                await company.clients.has_done(10)
            proxy.schedule = always(Fate.PASS)
        assert company.retries > 0


def black_hole(_rig: StandaloneRig, proxy: FaultProxy) -> Callable[[], None]:
    proxy.black_hole()
    return proxy.heal


def sigstop(rig: StandaloneRig, _proxy: FaultProxy) -> Callable[[], None]:
    rig.pause(rig.node)
    return lambda: rig.resume(rig.node)


@pytest.mark.parametrize("silence", [black_hole, sigstop], ids=lambda one: one.__name__)
async def test_half_open_connection_black_hole_sigstop_of_the_server_silent_to_all(
    standalone: StandaloneRig, silence: Callable[..., Callable[[], None]]
) -> None:
    async with (
        FaultProxy(standalone.node.port, always(Fate.PASS)) as proxy,
        at_work(
            proxy.url, standalone.url, nodes=standalone.nodes, deadline_secs=DEADLINE_SECS
        ) as company,
    ):
        accepted, before = proxy.accepted, company.clients.met.copy()
        end = silence(standalone, proxy)
        try:
            await company.clients.has_met("StoreUnavailableError", 2 * len(company.stores))
        finally:
            end()
        await company.clients.has_done(50)
        # Only a write in progress at the start of the silence has an unknown outcome.
        told = company.clients.met - before
        assert 0 < told["OutcomeUnknownError"] <= 2 * len(company.stores) < proxy.accepted
        assert proxy.accepted > accepted


async def test_half_open_connection_black_hole_sigstop_of_the_server_forgotten_by_it(
    standalone: StandaloneRig,
) -> None:
    async with (
        FaultProxy(standalone.node.port, always(Fate.PASS)) as proxy,
        at_work(
            proxy.url, standalone.url, nodes=standalone.nodes, deadline_secs=DEADLINE_SECS
        ) as company,
    ):
        await until_all_are_connected(company)
        accepted = proxy.accepted
        assert proxy.half_open() >= len(company.stores)
        # A call without a reply ends the connection, and its next attempt uses another. This leaves
        # time for both.
        for _ in range(20):
            await company.clients.has_done(100)
            if proxy.accepted >= accepted + len(company.stores):
                break  # each store has noticed it by now
        assert proxy.accepted >= accepted + len(company.stores)
    assert company.retries > 0


async def until_all_are_connected(company: Company) -> None:
    for store in company.stores:
        await store.ping()
