"""The session scripts of ``lua/sessions/``, and functions that build their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from ...abc.records import Verdict
from ..transport.script import Script

if TYPE_CHECKING:
    from ...abc.records import EncodedSession
    from ..transport.protocol import Arguments

__all__ = [
    "CREATE",
    "DELETE",
    "PUT",
    "PUT_FENCED",
    "REPLACE",
    "TOUCH",
    "UPDATE_CAS",
    "UPDATE_CAS_FENCED",
    "create_arguments",
    "delete_arguments",
    "put_arguments",
    "put_fenced_arguments",
    "replace_arguments",
    "touch_arguments",
    "update_cas_arguments",
    "update_cas_fenced_arguments",
    "with_schema_version",
]


def with_schema_version(arguments: Arguments, encoded: EncodedSession) -> Arguments:
    """Return the arguments of a script that writes a record, with the schema version if it has one.

    It is the last argument. A script makes no check without it.
    """
    return (*arguments, encoded.schema_version) if encoded.schema_version else arguments


CREATE: Final = Script("sessions/create")


def create_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int,
    new_body: bytes,
    new_incarnation: str,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return new_owner, new_ttl_ms, new_body, new_incarnation, held_ms, new_labels


PUT: Final = Script("sessions/put")


def put_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int,
    new_body: bytes,
    new_incarnation: str,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return new_owner, new_ttl_ms, new_body, new_incarnation, held_ms, new_labels


PUT_FENCED: Final = Script("sessions/put_fenced")


def put_fenced_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int,
    new_body: bytes,
    new_incarnation: str,
    fencing_token: int,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return new_owner, new_ttl_ms, new_body, new_incarnation, fencing_token, held_ms, new_labels


UPDATE_CAS: Final = Script("sessions/update_cas")


def update_cas_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int,
    new_body: bytes,
    expected_incarnation: str,
    expected_version: int,
    following_version: int,
    log_field: str,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return (
        new_owner,
        new_ttl_ms,
        new_body,
        expected_incarnation,
        expected_version,
        following_version,
        log_field,
        held_ms,
        new_labels,
    )


UPDATE_CAS_FENCED: Final = Script("sessions/update_cas_fenced")


def update_cas_fenced_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int,
    new_body: bytes,
    expected_incarnation: str,
    expected_version: int,
    following_version: int,
    log_field: str,
    fencing_token: int,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return (
        new_owner,
        new_ttl_ms,
        new_body,
        expected_incarnation,
        expected_version,
        following_version,
        log_field,
        fencing_token,
        held_ms,
        new_labels,
    )


REPLACE: Final = Script("sessions/replace")


def replace_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int,
    new_body: bytes,
    new_incarnation: str,
    expected_incarnation: str,
    expected_version: int,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return (
        new_owner,
        new_ttl_ms,
        new_body,
        new_incarnation,
        expected_incarnation,
        expected_version,
        held_ms,
        new_labels,
    )


TOUCH: Final = Script("sessions/touch")


def touch_arguments(
    exact_owner: str,
    shared_owner: str,
    new_ttl_ms: int | Literal[""],
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return exact_owner, shared_owner, new_ttl_ms, held_ms, new_labels


DELETE: Final = Script("sessions/delete", rests_on=Verdict.ABSENT)


def delete_arguments(
    exact_owner: str,
    shared_owner: str,
    expected_incarnation: str,
    expected_version: int | Literal[""],
    tombstone_ms: int,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return exact_owner, shared_owner, expected_incarnation, expected_version, tombstone_ms
