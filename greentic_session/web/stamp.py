"""What the record of a web session holds in addition to the application's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from .tokens import digest_of, is_digest_of, new_nonce

if TYPE_CHECKING:
    from ..model import SessionMeta
    from .policy import WebPolicy
    from .tokens import Token

__all__ = ["LABEL", "Presented", "Stamp"]

LABEL: Final = "web"
"""The entry of ``meta.labels`` that holds the stamp."""
OVERLAP_MS: Final = 10_000
"""How long a renewed secret is valid after its successor was first presented."""
LONGEST_OVERLAP_MS: Final = 300_000
"""How long a renewed secret is valid in all, if its successor is never presented."""

Presented = bool | None
"""Whether a token has the current secret. ``None``: neither the current nor the previous one."""


class Stamp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The token, the times and the name of a web session. Times are by the store's clock, in ms.

    The names are short, because each record holds them.

    :ivar h: digest of the current secret.
    :ivar p: digest of the previous secret, empty if there is none.
    :ivar u: the time from which the previous secret is not valid.
    :ivar n: nonce from which the current secret was derived, if a renewal did that.
    :ivar s: whether the current secret was presented since the renewal.
    :ivar r: time at which the current secret was last sent for a renewal, login or creation.
    :ivar c: time of creation.
    :ivar i: time from which a lifetime without activity counts if it is not rolling.
    :ivar a: time of the login, 0 without a user.
    :ivar x: end of the absolute lifetime, 0 for none.
    :ivar m: time at which a cookie with ``Max-Age`` was last sent.
    :ivar k: nonce of the CSRF tokens, empty if the policy has none.
    :ivar d: name of the device, for people.
    """

    h: str
    c: int
    i: int
    r: int
    p: str = ""
    u: int = 0
    n: str = ""
    s: bool = False
    a: int = 0
    x: int = 0
    m: int = 0
    k: str = ""
    d: str = ""

    @classmethod
    def of(cls, meta: SessionMeta) -> Stamp | None:
        """Return the stamp of a record, ``None`` if it is not a web session."""
        try:
            return msgspec.convert(meta.labels.get(LABEL), cls)
        except msgspec.ValidationError:
            return None

    def labels(self, others: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """Return the labels of a record with this stamp, and the labels of others."""
        return {**others, LABEL: cast("object", msgspec.to_builtins(self))}

    def presented(self, token: Token, now_ms: int) -> Presented:
        """Return whether the token has the current secret, or ``None`` if it has no valid one."""
        if is_digest_of(self.h, token.secret):
            return True
        if self.p and is_digest_of(self.p, token.secret) and now_ms < self.u:
            return False
        return None

    def end_ms(self, policy: WebPolicy, active_ms: int) -> int:
        """Return the time at which the session ends if its last activity was at ``active_ms``."""
        end = (active_ms if policy.rolling else self.i) + policy.idle_ms
        return min(end, self.x) if self.x else end


def new_stamp(
    policy: WebPolicy,
    token: Token,
    now_ms: int,
    *,
    before: Stamp | None,
    name: str,
    is_login: bool,
) -> Stamp:
    """Return the stamp of a new incarnation.

    :param before: the stamp of the incarnation that it replaces.
    :param name: name of the device.
    :param is_login: whether a login begins it. That restarts the lifetime.
    """
    restarts = is_login or before is None
    absolute_end = now_ms + policy.absolute_ms if policy.absolute_ms else 0
    return Stamp(
        h=digest_of(token.secret),
        c=now_ms if before is None else before.c,
        i=now_ms if restarts or before is None else before.i,
        r=now_ms,
        a=now_ms if is_login else 0 if before is None else before.a,
        x=absolute_end if restarts or before is None else before.x,
        m=now_ms,
        k=new_nonce() if policy.csrf == "token" else "",
        d=name,
    )


def renewed(stamp: Stamp, token: Token, now_ms: int) -> tuple[Stamp, Token]:
    """Return the stamp with the successor of its current secret, and the successor.

    :param token: the token with the current secret.
    """
    nonce = new_nonce()
    successor = token.successor(nonce)
    changed = msgspec.structs.replace(
        stamp,
        h=digest_of(successor.secret),
        p=stamp.h,
        u=now_ms + LONGEST_OVERLAP_MS,
        n=nonce,
        s=False,
        r=now_ms,
        m=now_ms,
    )
    return changed, successor
