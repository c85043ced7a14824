"""Types that use each construct of the generators."""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct, UnsetType

T = TypeVar("T")


class Role(enum.Enum):
    HOST = "host"
    GUEST = "guest"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(Struct, array_like=True, frozen=True):
    x: int
    y: int = 7


class Box(Struct, Generic[T]):
    value: T
    note: str | UnsetType = msgspec.UNSET


class UserJoined(Struct, tag="user_joined", kw_only=True):
    """A user came in."""

    user: str


class Said(Struct, tag="said", rename="camel", forbid_unknown_fields=True):
    text_body: str
    sent_at: datetime | None = None


class Tree(Struct, omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=9)] = "leaf"
    children: list[Tree] = []


Message = UserJoined | Said


class Everything(Struct):
    count: Annotated[int, Meta(ge=0, lt=1000)]
    ratio: float
    on: bool
    raw: bytes
    day: date
    clock: time
    span: timedelta
    key: UUID
    price: Decimal
    anything: Any
    role: Role
    level: Level
    mode: Literal["a", 1]
    points: list[Point]
    names: frozenset[str]
    pair: tuple[int, str]
    many: tuple[int, ...]
    by_name: dict[str, list[UserJoined]]
    tree: Tree
    last: Message
    mixed: int | str | list[Point] | None
    box: Box[int]
    mixed_objects: dict[str, Message | int] = {}
    since: datetime | UnsetType = msgspec.UNSET
