"""The topology of a master that Redis Sentinel names.

It follows "Guidelines for Redis clients with support for Redis Sentinel"
(https://redis.io/docs/latest/develop/reference/sentinel-clients/), with two differences:

* A client asks all configured sentinels instead of the first that answers.
* A client compares config epochs, because the sentinels order their failovers by them
  (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/, "Configuration epochs").

Each new connection asks the server for its role.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, final

from redis.exceptions import NoPermissionError, ResponseError

from ..._compat import override
from .driver import ask, ask_all_once
from .failures import UnknownServerError
from .server import Server
from .topology import FAILURES, DiscoveringTopology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio.connection import AbstractConnection

    from ...config import Address, RedisConfig, SentinelConfig

__all__ = [
    "UNKNOWN_EPOCH",
    "MasterReport",
    "SentinelTopology",
    "choose_master",
    "restarted_master",
]

UNKNOWN_EPOCH: Final = -1
"""The epoch if the account may not run SENTINEL MASTER. It is lower than every known epoch."""
_GRACE_SECS: Final = 0.05
"""How long to wait for the other sentinels after a majority has answered."""


class MasterReport(NamedTuple):
    """The answer of one sentinel.

    :ivar epoch: the config epoch of the master's last failover.
    :ivar address: the address of the master.
    """

    epoch: int
    address: Address


def choose_master(
    reports: Sequence[MasterReport], *, configured: int, known: MasterReport | None
) -> MasterReport | None:
    """Return the report to follow, ``None`` if every report is older than the known one.

    * The report with the highest epoch wins. At a tie, the address with more reports wins.
    * An epoch below the known one is not accepted. See :func:`restarted_master`.
    * Another address with the known epoch is accepted only if a majority of the configured
      sentinels reports it. One epoch has one master, except while operators rename servers or set
      up sentinels.

    The rule for the epoch does not depend on a majority. A newer epoch from a minority is right,
    because a failover needs the votes of a majority. A client without a known epoch that reaches
    only a minority follows it, and so may use a deposed master.

    :param reports: the answers of the sentinels.
    :param configured: number of configured sentinels.
    :param known: the highest epoch seen, and the address in use.
    """
    if not reports:
        return None
    epoch = max(report.epoch for report in reports)
    votes = Counter(report.address for report in reports if report.epoch == epoch)
    address, count = votes.most_common(1)[0]
    if known is None or epoch > known.epoch or (epoch == known.epoch and 2 * count > configured):
        return MasterReport(epoch, address)
    return known if epoch == known.epoch and known.address in votes else None


def restarted_master(reports: Sequence[MasterReport], *, configured: int) -> MasterReport | None:
    """Return the report to follow if the epoch may have restarted, ``None`` if it has not.

    Epochs restart at 0 if operators remove the master from all sentinels and add it again. After
    that, no sentinel knows the earlier epoch. So all configured sentinels have to answer, and to
    agree on one address. A majority is not enough, because it may be behind.

    :param reports: the answers of the sentinels. All of them are older than the known one.
    :param configured: number of configured sentinels.
    """
    if len(reports) < configured or len({report.address for report in reports}) != 1:
        return None
    return max(reports)


@final
class SentinelTopology(DiscoveringTopology):
    """The master that the sentinels name. It is one server at a time.

    :param config: the checked configuration.
    :param sentinel: the configuration of the sentinels.
    """

    def __init__(self, config: RedisConfig, sentinel: SentinelConfig) -> None:
        super().__init__(config)
        self._sentinel: Final = sentinel
        self._addresses: Final = tuple(dict.fromkeys(sentinel.addresses))
        self._grace_secs: Final = min(_GRACE_SECS, config.deadline_secs / 20)
        self._server: Server | None = None
        self._known: MasterReport | None = None
        self._refusal: str | None = None

    @override
    def server_of(self, key: str | None) -> Server | None:
        """Return the master, ``None`` if it is not known yet."""
        return self._server

    @override
    def server_at(self, host: str, port: int, *, reported_by: Server) -> Server:
        """Return the server that reported, because Sentinel does not manage clusters."""
        return reported_by

    @property
    @override
    def servers(self) -> Sequence[Server]:
        """The master, if it is known."""
        return () if self._server is None else (self._server,)

    @override
    async def _discover(self) -> bool:
        reports = await self._reports()
        known = self._known
        chosen = choose_master(reports, configured=len(self._addresses), known=known)
        if chosen is None and known is not None:
            chosen = await self._restarted(reports, known)
        if chosen is None:
            raise UnknownServerError(self._refusal or "the sentinels name no master")
        self._refusal = None
        self._known = chosen
        old = self._server
        if old is not None and old.address == chosen.address:
            return False
        self._server = Server(
            self._config, chosen.address, self._require_master, self._check_silent
        )
        # Calls in flight on the old master fail now, and retry on the new one.
        self._replace_servers(old=() if old is None else (old,), abort=True)
        return True

    async def _restarted(
        self, reports: Sequence[MasterReport], known: MasterReport
    ) -> MasterReport | None:
        """Return the report to follow although its epoch is lower than the known one.

        If the known server still says that it is a master, the answer is ``None``. A sentinel
        address that leads to several sentinels in turn could otherwise lead back to a deposed one.
        """
        epoch = max(report.epoch for report in reports)
        if epoch == known.epoch:
            self._refusal = (
                f"the sentinels' config epoch {epoch} was seen before with another master, and no "
                "majority names the new one"
            )
            return None
        chosen = restarted_master(reports, configured=len(self._addresses))
        if chosen is None:
            why = "not all sentinels answer and agree on one master"
        elif chosen.address == known.address or not await self._says_master(known.address):
            return chosen
        else:
            why = "the earlier master is still a master"
        self._refusal = (
            f"the sentinels' config epoch {epoch} is lower than {known.epoch}, which was seen "
            f"before: {why}"
        )
        return None

    async def _says_master(self, address: Address) -> bool:
        """Return whether a server answers, and says that it is a master."""
        try:
            (role,) = await ask_all_once(
                self._config, address, ("ROLE",), secs=self._config.deadline_secs / 4
            )
        except FAILURES:
            return False
        return isinstance(role, list) and role[:1] == [b"master"]

    async def _require_master(self, connection: AbstractConnection) -> None:
        try:
            role, *_ = await ask(connection, "ROLE")
        except NoPermissionError:
            return  # if it is a replica, it refuses writes, and the client reconnects then
        except (TypeError, ValueError):
            raise UnknownServerError("the server's reply to a greeting cannot be read") from None
        if role != b"master":
            raise UnknownServerError(
                self._refusal or "the server that the sentinels name is not a master yet"
            )

    async def _reports(self) -> list[MasterReport]:
        """Ask all sentinels concurrently, and return the answers.

        Waits for a majority, and then a short time for the others. If all answers are older than
        the known report, it waits for all sentinels.

        :raises OSError: no sentinel answered.
        """
        reports: list[MasterReport] = []
        failure: BaseException | None = None
        seen = UNKNOWN_EPOCH if self._known is None else self._known.epoch
        pending = {self._loop.create_task(self._ask(address)) for address in self._addresses}
        patience: float | None = None  # until a majority, each question has its own timeout
        try:
            while pending:
                left = None if patience is None else patience - self._loop.time()
                done, pending = await asyncio.wait(
                    pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    try:
                        reports.append(task.result())
                    except FAILURES as error:
                        if failure is None or not isinstance(error, TimeoutError):
                            failure = error
                is_majority = 2 * len(reports) > len(self._addresses)
                if patience is None and is_majority and max(reports).epoch >= seen:
                    patience = self._loop.time() + self._grace_secs
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if not reports:
            raise failure or UnknownServerError("there is no sentinel to ask")
        return reports

    async def _ask(self, sentinel: Address) -> MasterReport:
        name = self._sentinel.master_name
        # During a failover, SENTINEL MASTER returns the new epoch, but still the old master. So the
        # address is asked for separately, after the epoch. A failover between the two commands then
        # yields the new address with the old epoch, and never the reverse.
        state, found = await ask_all_once(
            self._config,
            sentinel,
            ("SENTINEL", "MASTER", name),
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name),
            secs=self._config.deadline_secs / 4,
            of=self._sentinel,
        )
        if isinstance(found, NoPermissionError):
            raise found
        if isinstance(found, ResponseError):
            raise UnknownServerError("a sentinel refused to name the master")
        if found is None:
            raise UnknownServerError("the sentinels know no master of that name")
        try:
            host, port = found
            return MasterReport(_epoch_in(state), (host.decode(), int(port)))
        except (TypeError, ValueError, AttributeError, KeyError):
            raise UnknownServerError("a sentinel's reply cannot be read") from None


def _epoch_in(state: Any) -> int:  # Any: as in `Reply`
    """Return the config epoch in a reply to SENTINEL MASTER.

    :param state: the reply: a map with RESP3, a flat list with RESP2, or an error.
    """
    if isinstance(state, ResponseError):
        return UNKNOWN_EPOCH  # earlier guides asked only for the permission of the other command
    if not isinstance(state, dict):
        state = dict(zip(state[::2], state[1::2], strict=True))
    fields = cast("Mapping[bytes, bytes]", state)
    return max(0, int(fields[b"config-epoch"]))
