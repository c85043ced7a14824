"""What the library's own script and read are given, for those who send them by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from greentic_session.abc.records import EncodedSession

__all__ = ["FIELDS", "is_done", "update_arguments"]

FIELDS: Final = ("cas", "inc", "owner", "ttl", "at", "body")
"""What ``get`` reads of a record."""


def update_arguments(
    operation: str, encoded: EncodedSession, body: bytes, incarnation: str, version: int
) -> tuple[str | bytes, ...]:
    """Return the ARGV of UPDATE_CAS, as text, since not every client takes numbers.

    :param operation: 16 hex digits of its own for each call.
    :param version: the one that is expected.
    """
    following = version + 1
    return (
        *(operation, "", encoded.scope, encoded.owner, str(encoded.ttl_ms), body),
        *(incarnation, str(version), str(following), f"op{following % 8}"),
    )


def is_done(reply: Any) -> bool:
    """Return whether the script says that it wrote: a verdict of 1, or only a time."""
    return type(reply) is int or reply[0] == 1
