"""What a write costs the server itself: µs per EVALSHA, ours and a bare script's, interleaved."""

from __future__ import annotations

import socket
import statistics
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast

import hiredis

from greentic_session.redis import scripts
from greentic_session.testing.servers import LocalServer, redis_binary, valkey_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    Argument = str | bytes | int
    Call = tuple[Argument, ...]
    Costs = dict[str, float]

__all__ = ["BARE", "BARE_FIELDS", "Figures", "measure", "measure_tenants"]

BARE: Final = """
if redis.call('HGET', KEYS[1], 'cas') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'cas', ARGV[2], 'body', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
"""
"""Compare one field, write token and body, PEXPIRE two keys."""
BARE_FIELDS: Final = """
if redis.call('HGET', KEYS[1], 'cas') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'cas', ARGV[2], 'ttl', ARGV[4], 'at', ARGV[5], 'body', ARGV[3],
  'ops', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
"""
"""The same, but each field that a record needs: time, life and a trace of 380 bytes as well."""

_BODY: Final = b"x" * 900
_OWNER: Final = "support/ann"
_WHO: Final = (_OWNER, "support/")
_INC: Final = "a" * 32
_SCOPE: Final = "5" * 64
_TTL_MS: Final = 3_600_000
_LEASE_MS: Final = 30_000
_MEMORY_MS: Final = 86_400_000
_KEYS: Final = 300
_BATCH: Final = 100


class Figures(NamedTuple):
    """What each call costs.

    :ivar us: µs per EVALSHA by the server's own count, median of the rounds.
    :ivar ratios: to ``bare``, median of each round's own ratio.
    :ivar field_ratios: to ``bare_fields``.
    :ivar quiet_us: mean of the quietest quarter of the rounds: the server counts wall time, so a
        busy machine adds to it, and most to what takes longest.
    """

    us: Costs
    ratios: Costs
    field_ratios: Costs
    quiet_us: Costs


class _Line:
    """A connection with nothing between the caller and the socket."""

    def __init__(self, server: LocalServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(server.url.removeprefix("unix://"))
        self._reader = hiredis.Reader()
        self._calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def run(self, calls: Sequence[Call]) -> list[Any]:  # Any: whatever RESP carries
        pack = cast("Callable[[Call], bytes]", hiredis.pack_command)
        replies: list[Any] = []
        for start in range(0, len(calls), _BATCH):
            self._socket.sendall(b"".join(map(pack, calls[start : start + _BATCH])))
            end = min(start + _BATCH, len(calls))
            while len(replies) < end:
                reply = self._reader.gets()
                if reply is False:
                    self._reader.feed(self._socket.recv(1 << 20))
                elif isinstance(reply, Exception):
                    raise reply
                else:
                    replies.append(reply)
        return replies

    def one(self, *call: Argument) -> Any:
        return self.run([call])[0]

    def load(self, source: str | bytes) -> str:
        sha1: bytes = self.one("SCRIPT", "LOAD", source)
        return sha1.decode()

    def ours(self, script: scripts.Script, key: str, *arguments: Argument) -> Call:
        self._calls += 1
        operation = f"{0x9F3A_0000_0000_0000 + self._calls:016x}"
        names = _names(key)[: 3 if b"KEYS[3]" in script.source else 2]
        head = "EVALSHA", script.sha1, len(names), *names
        return (*head, operation, "", "default/acme", *arguments)

    def cost(self, calls: Sequence[Call]) -> tuple[float, list[Any]]:
        """Return µs per call, and the replies, each of which must say that it was done."""
        self.one("CONFIG", "RESETSTAT")
        replies = self.run(calls)
        bad = [reply for reply in replies if (reply if type(reply) is int else reply[0]) <= 0]
        if bad:
            raise RuntimeError(f"a call was refused: {bad[0]!r}")
        for row in self.one("INFO", "commandstats").decode().splitlines():
            if row.startswith("cmdstat_evalsha:"):
                return float(row.split("usec_per_call=")[1].split(",")[0]), replies
        raise RuntimeError("the server counted no EVALSHA")


def _names(key: str, tenant: str = "acme") -> tuple[str, str, str]:
    record = f"greentic:session:default:{tenant}:{{{key}}}"
    return record, f"greentic:session:lookup:{{{key}}}", f"{record}:events"


class _Round:
    """One call of each kind on each of its keys, again and again."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._bare = line.load(BARE)
        self._bare_fields = line.load(BARE_FIELDS)
        for name in scripts.__all__:
            script = getattr(scripts, name)
            if isinstance(script, scripts.Script):
                line.load(script.source)
        self._version = 0
        for name in ("update_cas", "put", "touch"):
            self._create(name, _TTL_MS)
        self._create("update_cas for ever", 0)
        for name in ("bare", "bare_fields"):
            for record, lookup, _ in map(_names, self._keys(name)):
                fields = ("cas", 1, "inc", _INC, "owner", _OWNER, "body", _BODY, "ops", "f" * 380)
                line.run([("HSET", record, *fields), ("HSET", lookup, "default/acme", 0)])

    def _keys(self, name: str) -> list[str]:
        return [f"{name}-{number}" for number in range(_KEYS)]

    def _create(self, name: str, ttl_ms: int) -> float:
        state = _OWNER, ttl_ms, _BODY, _INC
        calls = [self._line.ours(scripts.CREATE, key, *state) for key in self._keys(name)]
        return self._line.cost(calls)[0]

    def _each(self, name: str, call: Callable[[str], Call]) -> float:
        return self._line.cost([call(key) for key in self._keys(name)])[0]

    def _bared(self, name: str, sha1: str, *more: Argument) -> float:
        version = self._version
        state = version, version + 1, _BODY, _TTL_MS, *more
        return self._each(name, lambda key: ("EVALSHA", sha1, 2, *_names(key)[:2], *state))

    def _updated(self, name: str, ttl_ms: int) -> float:
        following = self._version + 1
        token = _INC, self._version, following, f"op{following % 8}"
        arguments = _OWNER, ttl_ms, _BODY, *token
        return self._each(name, lambda key: self._line.ours(scripts.UPDATE_CAS, key, *arguments))

    def _verb(self, script: scripts.Script, name: str, *arguments: Argument) -> float:
        return self._each(name, lambda key: self._line.ours(script, key, *arguments))

    def _waits(self) -> Costs:
        line, keys = self._line, self._keys("waits")
        memory = 128, _MEMORY_MS
        pausing = _OWNER, _TTL_MS, _BODY, "", "", _INC, _SCOPE, 0, "", *memory
        pause, _ = line.cost([line.ours(scripts.PAUSE, key, *pausing) for key in keys])
        attempt = f"attempt {self._version}"
        bid = _OWNER, _SCOPE, attempt, "", _LEASE_MS, _MEMORY_MS
        claim, held = line.cost([line.ours(scripts.CLAIM, key, *bid) for key in keys])
        state, rest = (_OWNER, _TTL_MS, _BODY), ("wait", _SCOPE, 0, f"event {self._version}")
        settle, _ = line.cost(
            [
                line.ours(scripts.SETTLE, key, *state, got[2], got[1], got[6], *rest, *memory, 1)
                for key, got in zip(keys, held, strict=True)
            ]
        )
        return {"pause": pause, "claim": claim, "settle": settle}

    def costs(self) -> Costs:
        self._version += 1
        return {
            "bare": self._bared("bare", self._bare),
            "bare_fields": self._bared("bare_fields", self._bare_fields, 1763650000000, "f" * 380),
            "update_cas": self._updated("update_cas", _TTL_MS),
            "update_cas for ever": self._updated("update_cas for ever", 0),
            "put": self._verb(scripts.PUT, "put", _OWNER, _TTL_MS, _BODY, _INC),
            "touch": self._verb(scripts.TOUCH, "touch", *_WHO, ""),
            "create": self._create("create", _TTL_MS),
            "delete": self._verb(scripts.DELETE, "create", *_WHO, "", "", 10_000),
            **self._waits(),
        }


def measure(binary: Path, *, rounds: int = 40) -> Figures:
    """Measure every verb on a server of its own; 0.9 KB sessions with a life of an hour.

    :param binary: ``valkey-server`` or ``redis-server``.
    :param rounds: how often; each kind of call is made 300 times in a round, in turn.
    """
    with LocalServer(binary) as server, _Line(server) as line:
        one = _Round(line)
        for _ in range(10):  # until every trace is as long as it gets
            one.costs()
        seen = [one.costs() for _ in range(rounds)]
    return Figures(
        _medians(seen),
        _medians(_over(costs, "bare") for costs in seen),
        _medians(_over(costs, "bare_fields") for costs in seen),
        {name: _quiet([costs[name] for costs in seen]) for name in seen[0]},
    )


def measure_tenants(binary: Path, *, tenants: int = 5000, rounds: int = 5) -> float:
    """Return what ``update_cas`` costs in µs where that many tenants hold the key.

    :param binary: as in :func:`measure`.
    """
    with LocalServer(binary) as server, _Line(server) as line:
        line.load(scripts.CREATE.source)
        line.load(scripts.UPDATE_CAS.source)
        key, state = "shared", (_OWNER, _TTL_MS, _BODY)
        lookup = _names(key)[1]
        later_ms = int(line.one("TIME")[0]) * 1000 + _TTL_MS // 2
        for number in range(tenants):
            line.one("HSET", lookup, f"default/tenant-{number}", later_ms)
        line.one("PEXPIREAT", lookup, later_ms)
        line.run([line.ours(scripts.CREATE, key, *state, _INC)])
        costs: list[float] = []
        for version in range(1, rounds * 20, 20):
            tokens = [(_INC, v, v + 1, f"op{(v + 1) % 8}") for v in range(version, version + 20)]
            calls = [line.ours(scripts.UPDATE_CAS, key, *state, *token) for token in tokens]
            costs.append(line.cost(calls)[0])
    return statistics.median(costs)


def _over(costs: Costs, base: str) -> Costs:
    return {name: cost / costs[base] for name, cost in costs.items()}


def _quiet(costs: Sequence[float]) -> float:
    return statistics.mean(sorted(costs)[: max(1, len(costs) // 4)])


def _medians(rounds: Iterable[Costs]) -> Costs:
    seen = list(rounds)
    return {name: statistics.median(costs[name] for costs in seen) for name in seen[0]}


def _main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for label, binary in (("valkey", valkey_binary()), ("redis", redis_binary())):
        figures = measure(binary, rounds=rounds)
        quiet = figures.quiet_us
        over, over_fields = _over(quiet, "bare"), _over(quiet, "bare_fields")
        rows = figures.us, figures.ratios, figures.field_ratios, quiet, over, over_fields
        head = ("us", "/bare", "/bare_fields", "quiet us", "/bare", "/bare_fields")
        print(f"{label:20}" + "".join(f"{word:>14}" for word in head))
        for name in quiet:
            print(f"{name:20}" + "".join(f"{row[name]:14.2f}" for row in rows))
        print(f"{'... 5000 tenants':20}{measure_tenants(binary):14.2f}")


if __name__ == "__main__":
    _main()
