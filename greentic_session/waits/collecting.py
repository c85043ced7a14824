"""The early events of a reply scope, as a registry of waits sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import OutcomeUnknownError, StoreUnavailableError

if TYPE_CHECKING:
    from ..model import ReplyScope, TenantCtx

__all__ = ["SupportsCollect", "collect_after_write"]


class SupportsCollect(Protocol):
    """Stores replies that arrive before a session waits for them. An inbox does."""

    async def collect(self, ctx: TenantCtx, user_id: str, scope: ReplyScope) -> int:
        """Admit the early events of a reply scope, for the session that waits there now."""
        ...


async def collect_after_write(
    inbox: SupportsCollect | None, ctx: TenantCtx, user_id: str, scope: ReplyScope
) -> None:
    """Admit the early events of a reply scope, after a session was registered there.

    :param inbox: ``None`` for none.
    :raises OutcomeUnknownError: the session waits, and its early events may not be in its mailbox.
    """
    if inbox is None:
        return
    try:
        await inbox.collect(ctx, user_id, scope)
    except StoreUnavailableError as error:  # "nothing was written" would be wrong
        raise OutcomeUnknownError(error.reason) from error
