"""The applications of the design seed: their sessions, messages, payloads and own effects."""

from __future__ import annotations

import enum
from typing import Any

from msgspec import Struct


class UserPrefs(Struct, frozen=True, kw_only=True):
    theme: str = "light"


class AppSession(Struct, frozen=True, kw_only=True):
    """The state of a chat session."""

    user_id: str
    current_channel: str
    preferences: UserPrefs
    login_time: int
    last_activity: int = 0


class MinimalSession(Struct, frozen=True):
    """No state: the session's id is enough."""


class GameRole(enum.Enum):
    PLAYER = "player"
    SPECTATOR = "spectator"


class GameSession(Struct, frozen=True, kw_only=True):
    player_id: str
    current_game: str | None = None
    game_role: GameRole = GameRole.SPECTATOR
    skill_level: int = 0


class CursorPos(Struct, frozen=True):
    line: int
    column: int


class CollabSession(Struct, frozen=True, kw_only=True):
    user_id: str
    active_documents: tuple[str, ...] = ()
    cursor_positions: dict[str, CursorPos] = {}


class Comment(Struct, frozen=True, kw_only=True):
    item_id: str
    text: str


class UserJoined(Struct, tag=True, frozen=True):
    user_id: str


class WelcomeEmailSent(Struct, tag=True, frozen=True):
    """The delayed e-mail is out."""


class CommentAdded(Struct, tag=True, frozen=True):
    comment: Comment


class PlayerMoved(Struct, tag=True, frozen=True):
    move: str


Msg = UserJoined | WelcomeEmailSent | CommentAdded | PlayerMoved


class EmailData(Struct, frozen=True):
    address: str


class TriggerWebhook(Struct, tag=True, frozen=True):
    target: str
    payload: EmailData


class Insert(Struct, tag=True, frozen=True):
    table: str
    row: Comment


AppEffect = TriggerWebhook | Insert
TYPES: dict[str, Any] = {
    "AppSession": AppSession,
    "MinimalSession": MinimalSession,
    "GameSession": GameSession,
    "CollabSession": CollabSession,
    "Msg": Msg,
    "EmailData": EmailData,
    "AppEffect": AppEffect,
    "Comment": Comment,
}
