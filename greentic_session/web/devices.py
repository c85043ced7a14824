"""The sessions of a user: list them, end one, end all, and log in without a race."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, final

import msgspec

from .._core.times import datetime_of
from ..errors import InvalidInputError, TenantMismatchError
from ..model import C, SessionKey
from . import entering
from .stamp import Stamp
from .tokens import KEY_PREFIX

if TYPE_CHECKING:
    from datetime import datetime

    from ..model import TenantCtx, Versioned
    from .session import WebSession
    from .sessions import WebSessions

__all__ = ["Devices", "SigningIn", "WebDevice"]


class WebDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A session of a user, for a page that lists the user's devices.

    :ivar key: the session key, to revoke the session. It opens nothing.
    :ivar label: name of the device, as the application set it.
    :ivar created_at: time of creation.
    :ivar authenticated_at: time of the login.
    :ivar seen_at: time of the last activity, exact to the policy's ``touch_every``.
    :ivar expires_at: the time from which the session is absent.
    """

    key: SessionKey
    label: str
    created_at: datetime
    authenticated_at: datetime
    seen_at: datetime
    expires_at: datetime | None

    @property
    def age_order(self) -> tuple[datetime, str]:
        """A sort key, older sessions first."""
        return self.authenticated_at, self.key


@final
class Devices(Generic[C]):
    """Lists and ends the sessions of users.

    :param sessions: the sessions that this is part of.
    """

    __slots__ = ("_sessions",)

    def __init__(self, sessions: WebSessions[C]) -> None:
        self._sessions: Final = sessions

    async def of_user(self, ctx: TenantCtx, user_id: str) -> list[WebDevice]:
        """Return the live web sessions of a user, oldest login first."""
        owner = self._sessions.user_ctx(ctx, user_id)
        found = [
            device
            async for versioned in self._sessions.store.find(owner, user_id=user_id, fenced=True)
            if (device := _device(versioned)) is not None
        ]
        return sorted(found, key=lambda device: device.age_order)

    async def revoke(self, owner: TenantCtx, key: SessionKey) -> bool:
        """End one session of a user."""
        try:
            return await self._sessions.store.delete(key, ctx=owner)
        except TenantMismatchError:  # the session has another user by now
            return False

    async def revoke_all(self, owner: TenantCtx, keep: SessionKey | None) -> int:
        """End every session of a user, and every login that runs.

        The generation is raised first. So a login either confirms before, and its session is
        listed, or does not confirm at all.
        """
        await self._sessions.generations.increase(owner)
        ended = 0
        for key in await self._sessions.keys_of(owner):
            if key != keep and key.startswith(KEY_PREFIX):
                ended += await self.revoke(owner, key)
        return ended


@final
class SigningIn(Generic[C]):
    """A login that began before the password check.

    :meth:`WebSessions.signing_in` makes it.
    """

    __slots__ = ("_generation", "_owner", "_sessions")

    def __init__(self, sessions: WebSessions[C], owner: TenantCtx, generation: str) -> None:
        self._sessions: Final = sessions
        self._owner: Final = owner
        self._generation: Final = generation

    async def login(self, session: WebSession[C], state: C | None = None) -> None:
        """Log in, as :meth:`WebSession.login`.

        :raises SessionRevokedError: the user's sessions were revoked since the block was entered.
        """
        bound = session.bound
        user_id = self._owner.user_id
        ours = self._sessions.user_ctx(bound.ctx, user_id or "")
        if user_id is None or ours != self._owner or bound.sessions is not self._sessions:
            raise InvalidInputError("session", "belongs to another tenant")
        with bound.exchange.noting():
            await entering.login(bound, user_id, state, self._generation)


def _device(versioned: Versioned[C]) -> WebDevice | None:
    session = versioned.session
    stamp = Stamp.of(session.meta)
    if stamp is None or not session.key.startswith(KEY_PREFIX):
        return None
    return WebDevice(
        key=session.key,
        label=stamp.d,
        created_at=datetime_of(stamp.c),
        authenticated_at=datetime_of(stamp.a),
        seen_at=session.updated_at,
        expires_at=session.expires_at,
    )
