"""The cost of a write on the server, as the server counts it."""

from __future__ import annotations

import socket
import statistics
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

from greentic_session import create_session_store
from greentic_session._core.verbs.base import services_of
from greentic_session.redis.key_names import KeyNames
from greentic_session.redis.scripts import CREATE, DELETE, PUT, TOUCH, UPDATE_CAS
from greentic_session.testing.servers import LocalServer

from .by_hand import is_done, update_arguments
from .sessions import session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from greentic_session.abc.records import EncodedSession
    from greentic_session.redis.transport.script import Script

    from .conditions import Recorder
    from .measuring import Plan

__all__ = ["BARE", "INCARNATION", "Line", "costs", "fill_records", "sample"]

_BATCH: Final = 100
_CHUNKS: Final = 10
_KEYS: Final = 300
INCARNATION: Final = "a" * 32
BARE: Final = """
if redis.call('HGET', KEYS[1], 'cas') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'cas', ARGV[2], 'ttl', ARGV[3], 'at', ARGV[4], 'body', ARGV[5],
  'ops', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
"""
"""The minimum of a compare-and-set with an expiry: it writes the same fields and no more."""

_LOG: Final = "f" * 380
_AT_MS: Final = "1763650000000"

Call = tuple[str | bytes | int, ...]


class Line:
    """A connection without a client: packs, sends, reads.

    :param port: port of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._reader = hiredis.Reader()
        self._pack = cast("Any", hiredis.pack_command)  # Any: untyped there

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Send commands, a hundred at a time, and return the replies.

        :raises hiredis.ReplyError: if a command failed.
        """
        replies: list[Any] = []
        for start in range(0, len(calls), _BATCH):
            batch = calls[start : start + _BATCH]
            self._socket.sendall(b"".join(map(self._pack, batch)))
            due = len(replies) + len(batch)
            while len(replies) < due:
                reply = self._reader.gets()
                if reply is False:
                    self._reader.feed(self._socket.recv(1 << 20))
                elif isinstance(reply, Exception):
                    raise reply
                else:
                    replies.append(reply)
        return replies

    def cost_us(self, calls: Sequence[Call]) -> float:
        """Run commands and return the server's time per command, in microseconds.

        :raises RuntimeError: if a script refused the call.
        """
        self.run([("CONFIG", "RESETSTAT")])
        replies = self.run(calls)
        refused = [reply for reply in replies if reply == 0 or not is_done(reply)]
        if refused:
            raise RuntimeError(f"the script refused: {refused[0]}")
        (told,) = self.run([("INFO", "commandstats")])
        for row in told.decode().splitlines():
            if row.startswith("cmdstat_evalsha:"):
                return float(row.split("usec_per_call=")[1].split(",")[0])
        raise RuntimeError("the server counted no EVALSHA")


def sample() -> EncodedSession:
    """Return the sample session as the store writes it."""
    return services_of(create_session_store("memory://")).encoder.encode(session(0))


def fill_records(line: Line, names: KeyNames, keys: Sequence[str]) -> None:
    """Store a session under each key, with version 1 and the same incarnation."""
    encoded = sample()
    at_ms = line.run([("TIME",)])[0][0].decode() + "000"
    expires_ms = str(int(at_ms) + encoded.ttl_ms)
    calls: list[Call] = []
    for key in keys:
        record, lookup = names.record(encoded.scope, key), names.lookup(key)
        token = ("cas", "1", "inc", INCARNATION, "owner", encoded.owner)
        fields = (
            *token,
            "ttl",
            str(encoded.ttl_ms),
            "at",
            at_ms,
            "body",
            encoded.body,
            "ops",
            _LOG,
        )
        calls += [
            ("HSET", record, *fields),
            ("PEXPIREAT", record, expires_ms),
            ("HSET", lookup, encoded.scope, expires_ms),
            ("PEXPIREAT", lookup, expires_ms),
        ]
    line.run(calls)


class Writes:
    """Calls of each kind, on keys of its own, one version after the other."""

    def __init__(self, line: Line, keys: Sequence[str]) -> None:
        self._line = line
        self._keys = keys
        self._draft = sample()
        self._operation = 0x9F3A_0000_0000_0000
        self._version = 0
        scripts = (CREATE, PUT, UPDATE_CAS, TOUCH, DELETE)
        self._bare_sha1, *_ = line.run(
            [("SCRIPT", "LOAD", BARE), *(("SCRIPT", "LOAD", script.source) for script in scripts)]
        )
        for name in ("bare", "update_cas", "put", "touch"):
            fill_records(line, KeyNames(name), keys)

    def _bare(self) -> list[Call]:
        encoded, at = self._draft, self._version
        given = (str(at), str(at + 1), str(encoded.ttl_ms), _AT_MS, encoded.body, _LOG)
        names = [KeyNames("bare").session_keys(encoded.scope, key) for key in self._keys]
        return [("EVALSHA", self._bare_sha1, 2, *pair, *given) for pair in names]

    def _next(self) -> str:
        self._operation += 1
        return f"{self._operation:016x}"

    def _updates(self) -> list[Call]:
        encoded, calls = self._draft, list[Call]()
        for key in self._keys:
            pair = KeyNames("update_cas").session_keys(encoded.scope, key)
            given = update_arguments(
                self._next(), encoded, encoded.body, INCARNATION, self._version
            )
            calls.append(("EVALSHA", UPDATE_CAS.sha1, 2, *pair, *given))
        return calls

    def _verb(self, script: Script, where: str, *arguments: str | bytes) -> list[Call]:
        scope, calls = self._draft.scope, list[Call]()
        for key in self._keys:
            names = KeyNames(where).session_keys(scope, key)
            if script is DELETE:
                names = (*names, f"{names[0]}:events")
            given = (self._next(), "", scope, *arguments)
            calls.append(("EVALSHA", script.sha1, len(names), *names, *given))
        return calls

    def costs(self) -> dict[str, float]:
        """Make one call of each kind on each key, and return µs per call."""
        self._version += 1
        encoded = self._draft
        state = (encoded.owner, str(encoded.ttl_ms), encoded.body, INCARNATION)
        whose = (encoded.owner, f"{encoded.owner.partition('/')[0]}/")
        cost = self._line.cost_us
        return {
            "bare": cost(self._bare()),
            "update_cas": cost(self._updates()),
            "put": cost(self._verb(PUT, "put", *state)),
            "touch": cost(self._verb(TOUCH, "touch", *whose, "")),
            "create": cost(self._verb(CREATE, "create", *state)),
            "delete": cost(self._verb(DELETE, "create", *whose, "", "", "10000")),
        }


def costs(binary: Path, plan: Plan, recorder: Recorder) -> dict[str, list[float]]:
    """Return µs per call of each verb's script and of the bare one, one figure per round."""
    keys = [f"{number}" for number in range(max(1, min(_KEYS, plan.operations // 4)))]
    taken: dict[str, list[float]] = {}
    with LocalServer(binary, tcp=True) as server:
        recorder.engine(server)
        line = Line(server.port)
        writes = Writes(line, keys)
        for _ in range(_CHUNKS):  # until each record's operation log has its full length
            writes.costs()
        for _ in range(plan.rounds):
            # Short turns, so that a disturbance affects all of them.
            chunks = [writes.costs() for _ in range(_CHUNKS)]
            for name in chunks[0]:
                middle = statistics.median(chunk[name] for chunk in chunks)
                taken.setdefault(name, []).append(middle)
        line.close()
    return taken
