"""Counters of web sessions, and the report of each refusal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, cast, final

import msgspec

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Counters", "Rejection", "WebStatistics"]

_LOGGER: Final = logging.getLogger(__name__)

Rejection = Literal[
    "malformed_token",
    "unknown_token",
    "replaced",
    "foreign_origin",
    "csrf_token",
    "unknown_host",
    "conflict",
    "ended",
    "unavailable",
]
"""Why a request or a part of it was refused:

* ``malformed_token``: the cookie is not a token, is not signed, or is there twice
* ``unknown_token``: no live session
* ``replaced``: the token of an earlier incarnation, or an earlier secret
* ``foreign_origin``: rule of other sites
* ``csrf_token``: the CSRF token is absent or wrong
* ``unknown_host``: no tenant
* ``conflict``: a parallel request changed the same plain field
* ``ended``: the session ended while the request ran, so its changes were dropped
* ``unavailable``: the store could not serve the request
"""


class WebStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one :class:`WebSessions`, since it was made. Each rejection has one.

    :ivar loads: reads of a session by a request.
    :ivar creates: sessions that were created.
    :ivar writes: saved changes.
    :ivar merges: changes that were merged with those of a parallel request.
    :ivar renewals: secrets that were renewed.
    :ivar logins: logins.
    """

    loads: int = 0
    creates: int = 0
    writes: int = 0
    merges: int = 0
    renewals: int = 0
    logins: int = 0
    malformed_token: int = 0
    unknown_token: int = 0
    replaced: int = 0
    foreign_origin: int = 0
    csrf_token: int = 0
    unknown_host: int = 0
    conflict: int = 0
    ended: int = 0
    unavailable: int = 0


@final
class Counters:
    """Counts events, and reports rejections to a function of the application.

    :param on_rejected: the function. It gets the reason and no id.
    """

    __slots__ = ("_counts", "_on_rejected")

    def __init__(self, on_rejected: Callable[[Rejection], None] | None) -> None:
        if on_rejected is not None and not callable(cast("object", on_rejected)):
            raise InvalidInputError("on_rejected", "expected a function")
        self._on_rejected: Final = on_rejected
        self._counts: Final = dict.fromkeys(WebStatistics.__struct_fields__, 0)

    def add(self, name: str) -> None:
        """Count an event."""
        self._counts[name] += 1

    def reject(self, reason: Rejection) -> None:
        """Count a rejection and report it. An error of the function is logged."""
        self._counts[reason] += 1
        if self._on_rejected is not None:
            try:
                self._on_rejected(reason)
            except Exception:
                _LOGGER.exception("on_rejected raised")

    def statistics(self) -> WebStatistics:
        """Return the counters."""
        return WebStatistics(**self._counts)
