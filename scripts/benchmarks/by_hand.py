"""Arguments of the library's own script and read, for clients that send them by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from greentic_session.abc.records import EncodedSession

__all__ = ["FIELDS", "is_done", "update_arguments"]

FIELDS: Final = ("cas", "inc", "owner", "ttl", "at", "body")
"""The fields of a record that ``get`` reads."""


def update_arguments(
    operation: str, encoded: EncodedSession, body: bytes, incarnation: str, version: int
) -> tuple[str | bytes, ...]:
    """Return the ARGV of UPDATE_CAS as text, because not every client accepts numbers.

    :param operation: 16 hex digits, different for each call.
    :param version: the expected version.
    """
    following = version + 1
    return (
        *(operation, "", encoded.scope, encoded.owner, str(encoded.ttl_ms), body),
        *(incarnation, str(version), str(following), f"op{following % 8}"),
    )


def is_done(reply: Any) -> bool:
    """Return whether the script reports a write: a verdict of 1, or only a time."""
    return type(reply) is int or reply[0] == 1
