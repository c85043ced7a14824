"""``scripts/bench growth``: what each verb costs the server, as more and more is stored.

The server counts the time itself (``INFO commandstats``), in one run on one server. The least of
some batches counts, because a disturbance only adds time. A verb of scripts costs what ``EVALSHA``
took, which includes the commands in a script. A verb without a script costs what its commands took.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from greentic_session import create_session_store
from greentic_session.testing.servers import LocalServer, valkey_binary

from .growth_subjects import PARTS, Sessions
from .server_cost import Line
from .sessions import CTX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .growth_subjects import Subject

__all__ = ["Growth", "Spent", "main", "measure", "serving", "table"]

_RESULTS: Final = Path(__file__).parent / "results"
_SESSIONS: Final = (1_000, 10_000, 100_000, 1_000_000)
_PARTS: Final = (100, 1_000, 10_000)
_ROW: Final = re.compile(r"cmdstat_([a-z|]+):calls=(\d+),usec=(\d+)")
_ASIDE: Final = ("config", "info", "hello", "client", "script", "ping")


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """The growth of one kind.

    :ivar title: what is stored.
    :ivar sizes: how many of them.
    :ivar verbs: per verb, microseconds of the server per call, in the order of the sizes.
    :ivar bytes_each: what one more takes on the server, in bytes, from the size before.
    :ivar scan_secs: how long a scan of all took, for sessions only.
    """

    title: str
    sizes: tuple[int, ...]
    verbs: dict[str, tuple[float, ...]]
    bytes_each: tuple[float, ...]
    scan_secs: tuple[float, ...] = ()


class Spent(NamedTuple):
    """What the server spends on one call.

    :ivar commands: how many commands it runs, those in scripts included.
    :ivar scripts_us: microseconds in scripts.
    :ivar us: the same, or that of the commands for a verb without a script.
    """

    commands: float
    scripts_us: float
    us: float


class serving:  # noqa: N801 - used as a function
    """A server of its own for a block, with a store and a line to it."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._server = LocalServer(valkey_binary(), ("--maxmemory", "0"), tcp=True)

    async def __aenter__(self) -> Self:
        self._server.__enter__()
        self.line = Line(urlsplit(self._server.tcp_url).port or 0)
        url = f"{self._server.tcp_url}?namespace={self._namespace}&deadline=60"
        self.store = create_session_store(url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.aclose()
        self.line.close()
        self._server.__exit__(None, None, None)

    def subject(self, kind: type[Subject]) -> Subject:
        """Return a kind of thing to store there."""
        return kind(self.store, self.line, self._namespace)

    def used_memory(self) -> int:
        """Return the bytes that the server uses for data and for itself."""
        (told,) = self.line.run([("INFO", "memory")])
        return int(re.search(rb"used_memory:(\d+)", told)[1])  # type: ignore[index] # it is there

    async def spent(self, verb: Callable[[], Awaitable[Any]], calls: int, batches: int) -> Spent:
        """Return what the server spends on one call: the least of some batches."""
        found: list[Spent] = []
        for _ in range(batches):
            self.line.run([("CONFIG", "RESETSTAT")])
            for _ in range(calls):
                await verb()
            (told,) = self.line.run([("INFO", "commandstats")])
            rows = [
                (name, int(count), int(us))
                for name, count, us in _ROW.findall(told.decode())
                if name.split("|")[0] not in _ASIDE
            ]
            scripts = [row for row in rows if row[0] in ("eval", "evalsha")]
            found.append(
                Spent(
                    sum(count for _, count, _ in rows) / calls,
                    sum(us for _, _, us in scripts) / calls,
                    sum(us for _, _, us in scripts or rows) / calls,
                )
            )
        return Spent(*map(min, zip(*found, strict=True)))


async def measure(
    kind: type[Subject], sizes: Sequence[int], *, calls: int = 10, batches: int = 40
) -> Growth:
    """Store more and more of a kind, and measure the verbs at each size."""
    verbs: dict[str, list[float]] = {}
    bytes_each: list[float] = []
    scans: list[float] = []
    async with serving("growth") as at:
        subject = at.subject(kind)
        for size in sizes:
            before, count = at.used_memory(), subject.count
            subject.fill(size)
            bytes_each.append((at.used_memory() - before) / (size - count))
            for name, verb in subject.verbs().items():
                await verb()  # loads the scripts
                verbs.setdefault(name, []).append((await at.spent(verb, calls, batches)).us)
            if kind is Sessions:
                started_at, found = perf_counter(), 0
                async for _ in at.store.scan(CTX, batch_size=512):
                    found += 1
                if found < size:
                    raise RuntimeError(f"the scan found {found} of {size} sessions")
                scans.append(perf_counter() - started_at)
            print(f"{kind.title}: {size:,}", file=sys.stderr, flush=True)
    return Growth(
        title=kind.title,
        sizes=tuple(sizes),
        verbs={name: tuple(values) for name, values in verbs.items()},
        bytes_each=tuple(bytes_each),
        scan_secs=tuple(scans),
    )


def table(found: Sequence[Growth]) -> str:
    """Return the tables as Markdown."""
    lines = ["# Growth", "", *(__doc__ or "").splitlines()[2:], ""]
    for growth in found:
        lines += [f"## {growth.title[0].upper()}{growth.title[1:]}", ""]
        head = [f"{size:,}" for size in growth.sizes]
        lines.append(f"| µs of the server per call | {' | '.join(head)} | last / first |")
        lines.append("|---" * (len(head) + 2) + "|")
        for name, values in growth.verbs.items():
            cells = [f"{us:.1f}" for us in values]
            lines.append(f"| {name} | {' | '.join(cells)} | {values[-1] / values[0]:.2f} |")
        cells = [f"{each:,.0f}" for each in growth.bytes_each]
        lines.append(f"| bytes for one more | {' | '.join(cells)} | |")
        if growth.scan_secs:
            cells = [f"{secs:.2f} s" for secs in growth.scan_secs]
            lines.append(f"| a scan of all | {' | '.join(cells)} | |")
            rates = [
                f"{1e6 * secs / size:.1f} µs"
                for size, secs in zip(growth.sizes, growth.scan_secs, strict=True)
            ]
            lines.append(f"| for one session of it | {' | '.join(rates)} | |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, and write them."""
    parser = argparse.ArgumentParser(prog="scripts/bench growth", description=__doc__)
    parser.add_argument("--most", type=int, default=_SESSIONS[-1], help="sessions at most")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder to write to")
    given = parser.parse_args()
    kinds: list[tuple[type[Subject], Sequence[int]]] = [(kind, _PARTS) for kind in PARTS]
    kinds.insert(0, (Sessions, [size for size in _SESSIONS if size <= given.most]))
    found = [asyncio.run(measure(kind, sizes)) for kind, sizes in kinds]
    page = table(found)
    print(page)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "growth.md").write_text(page, "utf-8")
    (given.out / "growth.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    )


if __name__ == "__main__":
    main()
