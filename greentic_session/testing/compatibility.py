"""Checks that two releases of a context type can share their sessions.

The examples come from Hypothesis, which this module imports on first use (extra: ``[testing]``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.encoding import SessionEncoder
from .._core.survival import first_loss
from ..abc.records import Record
from ..codec import JsonCodec
from ..config import DEFAULT_MAX_PAYLOAD_BYTES
from ..errors import SessionError
from ..model import Session, SessionCursor, SessionKey, SessionMeta

if TYPE_CHECKING:
    from .._core.evolution import Upgrades
    from ..codec import CodecFactory

__all__ = ["assert_compatible"]

_KEY: Final = SessionKey("compatibility")
_OLD: Final = "the old type"
_NEW: Final = "the new type"


def assert_compatible(
    old_type: Any,  # Any: any context type, for example a union
    new_type: Any,  # Any: as above
    *,
    codec: CodecFactory = JsonCodec,
    schema_version: int | None = None,
    upgrades: Upgrades | None = None,
    examples: int = 100,
) -> None:
    """Check that workers with either type can run at the same time, as during a deploy.

    * Each type reads what the other one writes.
    * After a worker with the old type has written a state of the new type, that state is unchanged.

    :param old_type: the context type of the running release.
    :param new_type: the context type of the release to deploy.
    :param codec: the codec of both stores.
    :param schema_version: the ``schema_version`` of the new release.
    :param upgrades: the ``upgrades`` of the new release. The old release has the version before.
    :param examples: number of states to try per type.
    :raises AssertionError: naming what fails. Hypothesis adds the state, reduced to the minimum.
    :raises ImportError: Hypothesis is not installed.
    """
    from hypothesis import HealthCheck, given, settings

    from .states import states_of

    before = None if schema_version is None or schema_version < 2 else schema_version - 1
    old = _encoder(old_type, codec, before, None)
    new = _encoder(new_type, codec, schema_version, upgrades)
    quickly = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
    )

    @quickly
    @given(states_of(old_type))
    def new_reads_old(state: Any) -> None:
        _read(new, _written(old, _session(state), _OLD), f"{_NEW} cannot read a state of {_OLD}")

    @quickly
    @given(states_of(new_type))
    def old_keeps_new(state: Any) -> None:
        stored = _written(new, _session(state), _NEW)
        expected = _read(new, stored, f"{_NEW} cannot read its own state")
        found = _read(old, stored, f"{_OLD} cannot read a state of {_NEW}")
        read = _read(new, _written(old, found, _OLD), f"{_NEW} cannot read what {_OLD} wrote")
        loss = first_loss(expected.context, read.context, "context")
        if loss is not None or expected.context != read.context:
            raise AssertionError(
                f"a write of {_OLD} changes a state of {_NEW}: {loss or 'context'}"
            )

    new_reads_old()
    old_keeps_new()


def _encoder(
    context_type: Any, codec: CodecFactory, schema_version: int | None, upgrades: Upgrades | None
) -> SessionEncoder[Any]:
    return SessionEncoder(
        context_type,
        codec,
        DEFAULT_MAX_PAYLOAD_BYTES,
        verify=True,
        schema_version=schema_version,
        upgrades=upgrades,
    )


def _session(state: Any) -> Session[Any]:
    return Session(
        key=_KEY,
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta(tenant_id="tenant"),
        context=state,
    )


def _written(encoder: SessionEncoder[Any], session: Session[Any], name: str) -> bytes:
    failure = ""
    try:
        return encoder.encode(session).body
    except SessionError as error:
        failure = str(error)
    raise AssertionError(f"a worker with {name} cannot write the state: {failure}")


def _read(encoder: SessionEncoder[Any], body: bytes, failure: str) -> Session[Any]:
    record = Record(value=1, incarnation="0" * 32, owner="/", ttl_ms=0, at_ms=0, body=body)
    try:
        return encoder.decode(_KEY, record).session
    except SessionError as error:
        reason = str(error)
    raise AssertionError(f"{failure}: {reason}")
