"""Checks of the arguments of waits, and their conversion for the backend's steps."""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

from msgspec.structs import replace

from .._core import tenancy
from .._validation import check_user, require_clean_text, ttl_to_ms
from ..abc.waits import WaitOwner
from ..errors import InvalidInputError
from ..model import C, ReplyScope, Session, SessionMeta, TenantCtx

if TYPE_CHECKING:
    from .index import WaitAddress

__all__ = [
    "digest_of_attempt",
    "digest_of_event",
    "hash_of",
    "owner_of",
    "presenting",
    "with_ttl",
    "with_user",
]

_MAX_ID_CHARS: Final = 512


def presenting(ctx: TenantCtx, user_id: str) -> TenantCtx:
    """Return the caller with the user.

    :raises InvalidInputError: naming the invalid field of ``ctx``. Or naming ``user_id``, if it is
        invalid or not the user of ``ctx``.
    """
    tenancy.allowed_owners_of(ctx)
    user_id = check_user(user_id)
    if ctx.user_id is not None and ctx.user_id != user_id:
        raise InvalidInputError("user_id", "is not the user of ctx")
    return replace(ctx, user_id=user_id)


def owner_of(ctx: TenantCtx, user_id: str) -> WaitOwner:
    """Return the owner of the waits that a call concerns.

    :raises InvalidInputError: as :func:`presenting`.
    """
    caller = tenancy.owner_of(presenting(ctx, user_id))
    return WaitOwner(caller.scope, caller.owner)


def hash_of(scope: ReplyScope) -> str:
    """Return the hash of a reply scope.

    :raises InvalidInputError: naming ``scope``, or its invalid field.
    """
    if not isinstance(cast("object", scope), ReplyScope):
        raise InvalidInputError("scope", f"expected ReplyScope, got {type(scope).__name__}")
    return scope.scope_hash()


def with_ttl(session: Session[C], ttl: timedelta | float | None) -> Session[C]:
    """Return the session with another lifetime.

    :param ttl: a :class:`datetime.timedelta` or seconds. 0 never expires. ``None`` keeps the
        session's own.
    :raises InvalidInputError: naming ``ttl``.
    """
    if ttl is None:
        return session
    secs = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    ttl_to_ms(secs, "ttl")
    if not isinstance(cast("object", session), Session):
        raise InvalidInputError("session", f"expected Session, got {type(session).__name__}")
    return replace(session, ttl_secs=secs)


def with_user(session: Session[C], user_id: str) -> Session[C]:
    """Return the session, with the user if its meta has none."""
    meta = cast("object", getattr(session, "meta", None))
    if not isinstance(meta, SessionMeta) or meta.user_id is not None:
        return session  # the encoder refuses what is not a session
    return replace(session, meta=replace(meta, user_id=user_id))


def digest_of_event(address: WaitAddress, event_id: str | None) -> str:
    """Return the digest of an event under a reply scope, empty for no event.

    It covers owner and reply scope. So the same id of another user or chat is another event.

    :raises InvalidInputError: naming ``event_id``.
    """
    if event_id is None:
        return ""
    event_id = require_clean_text(event_id, "event_id", _MAX_ID_CHARS)
    return _digest(*address.wait_owner, address.scope_hash, event_id)


def digest_of_attempt(attempt_id: str) -> str:
    """Return the digest of an attempt's id.

    :raises InvalidInputError: naming ``attempt_id``.
    """
    return _digest(require_clean_text(attempt_id, "attempt_id", _MAX_ID_CHARS))


def _digest(*parts: str) -> str:
    # No part contains a newline. With 128 bits, two events of a session do not collide.
    whole = hashlib.sha256("\n".join(parts).encode()).digest()
    return base64.urlsafe_b64encode(whole[:16]).rstrip(b"=").decode()
