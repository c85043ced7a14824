"""The runs of the soak by name, with the amount of work of each per night."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from . import crashes as deaths
from . import deploys, failovers, generated, histories, searches, web
from . import fifo as mail
from . import leaks as leftovers
from . import network as lines
from . import revocations as orders

if TYPE_CHECKING:
    from .report import Soak

__all__ = ["RUNS", "Run"]


class Run(NamedTuple):
    """One of the runs.

    :ivar nightly: number of units in a whole night.
    :ivar unit: name of the unit.
    :ivar soak: coroutine of the run.
    """

    nightly: int
    unit: str
    soak: Soak


RUNS: Final[dict[str, Run]] = {
    "checker": Run(1_000, "planted violations", histories.of_checkers),
    "histories-memory": Run(10_000, "histories", histories.in_memory),
    "histories-valkey": Run(10_000, "histories", histories.on_valkey),
    "cancellations": Run(1_000_000, "cancellations", lines.cancellations),
    "wire-faults": Run(100_000, "wire faults", lines.faults),
    "restarts": Run(200, "kills of a server with AOF", deaths.restarts),
    "failovers-sentinel": Run(200, "failovers", failovers.with_sentinel),
    "failovers-cluster": Run(200, "failovers", failovers.with_cluster),
    "resumes": Run(100_000, "waits", deaths.resumes),
    "beginnings": Run(1_000, "sessions that 64 racers begin", deaths.beginnings),
    "revocations": Run(972_972, "orders of logins and a revocation", orders.revocations),
    "deploys-keep": Run(10_000, "writes of two releases", deploys.keeping),
    "deploys-refuse": Run(10_000, "writes of two releases", deploys.refusing),
    "fifo": Run(1_000_000, "messages", mail.fifo),
    "searches": Run(1_000_000, "other sessions", searches.on_valkey),
    "generated-types": Run(300, "random types", generated.types),
    "leftovers-memory": Run(100_000, "lives", leftovers.in_memory),
    "leftovers-valkey": Run(100_000, "lives", leftovers.on_valkey),
    "web-pairs": Run(10_000, "pairs of parallel requests", web.pairs),
    "web-sums": Run(200, "rounds of 64 requests", web.sums),
    "web-logouts": Run(1_000, "logouts against a slow save", web.logouts),
    "web-logins": Run(500, "logins under 32 readers", web.logins),
    "web-renewals": Run(1_000, "rounds of 32 requests", web.renewals),
    "web-revocations": Run(1_000, "revocations against logins", web.revocations),
    "web-inventions": Run(200_000, "invented cookies", web.inventions),
}
