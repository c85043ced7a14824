"""The type of a state, the digest of it, and models as a state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field

from greentic_session import DecodeError, InvalidInputError, SchemaVersionError
from greentic_session._core.encoding import SessionEncoder
from greentic_session.abc.records import Record
from greentic_session.model import Session, SessionCursor, SessionKey, SessionMeta
from greentic_session.testing import assert_compatible

KEY = SessionKey("k")


class Inner(msgspec.Struct):
    name: str = ""


class WiderInner(msgspec.Struct):
    name: str = ""
    nick: str = ""


class Plain(msgspec.Struct):
    step: int = 0
    inner: Inner | None = None


class Wider(msgspec.Struct):
    step: int = 0
    inner: WiderInner | None = None
    extra: float = 0.5


class Listed(msgspec.Struct):
    step: int = 0
    many: list[Inner] = []


class ListedWider(msgspec.Struct):
    step: int = 0
    many: list[WiderInner] = []


class Retyped(msgspec.Struct):
    step: str = ""


class Cat(msgspec.Struct, tag=True):
    lives: int = 9


class Dog(msgspec.Struct, tag=True):
    tricks: int = 0


class OlderDog(msgspec.Struct, tag="Dog"):
    pass


class Point(msgspec.Struct, array_like=True):
    x: int = 0


class Point3(msgspec.Struct, array_like=True):
    x: int = 0
    y: int = 0


class Model(BaseModel):
    step: int = Field(default=0, ge=0)
    name: str = Field(default="", alias="fullName")


class WiderModel(Model):
    extra: str = "new"


class OpenModel(BaseModel):
    model_config = ConfigDict(extra="allow")
    step: int = 0


class Excluded(BaseModel):
    shown: int = 0
    hidden: int = Field(default=0, exclude=True)


def encoder(context_type: Any, **options: Any) -> SessionEncoder[Any]:
    return SessionEncoder(
        context_type, options.pop("codec", msgspec_json()), 1 << 20, verify=True, **options
    )


def msgspec_json() -> Any:
    from greentic_session.codec import JsonCodec

    return JsonCodec


def session(context: Any) -> Session[Any]:
    return Session(
        key=KEY,
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta(tenant_id="t"),
        context=context,
    )


def read(by: SessionEncoder[Any], body: bytes) -> Session[Any]:
    return by.decode(KEY, Record(1, "0" * 32, "/", 0, 0, body)).session


def body(context_type: Any, context: Any) -> bytes:
    return encoder(context_type).encode(session(context)).body


def test_the_digest_is_the_same_in_every_process() -> None:
    stored = msgspec.json.decode(body(Plain, Plain()))
    assert stored["shape"] == "1f486f56b7dd904a"
    assert "schema_version" not in stored


def test_a_state_without_named_fields_has_no_digest() -> None:
    assert b"shape" not in body(dict, {"a": 1})


def test_a_body_of_the_own_type_has_no_unknown_fields() -> None:
    assert read(encoder(Plain), body(Plain, Plain(step=1))).unknown is msgspec.UNSET


def test_unknown_fields_of_the_envelope_are_kept() -> None:
    newer = msgspec.json.decode(body(Plain, Plain(inner=Inner("a"))))
    newer["shape"] = "of a newer release"
    newer["cursor"]["speed"] = 3
    newer["priority"] = "high"
    found = read(encoder(Plain), msgspec.json.encode(newer))
    written = msgspec.json.decode(encoder(Plain).encode(found.advance("next")).body)
    assert (written["cursor"]["speed"], written["priority"]) == (3, "high")


def test_a_raw_number_comes_back_digit_by_digit() -> None:
    text = body(Plain, Plain()).replace(
        b'"step":0', b'"step":0,"rate":0.10000000000000000000000001'
    )
    text = text.replace(b'"shape"', b'"form"')
    found = read(encoder(Plain), text)
    assert b"0.10000000000000000000000001" in encoder(Plain).encode(found).body


def test_unknown_fields_survive_pickling_of_the_session() -> None:
    import pickle

    found = read(encoder(Plain), body(Wider, Wider(extra=2.0)))
    again = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own bytes
    assert read(encoder(Wider), encoder(Plain).encode(again).body).context.extra == 2.0


def test_a_removed_part_takes_its_unknown_fields_with_it() -> None:
    found = read(encoder(Plain), body(Wider, Wider(inner=WiderInner("a", "b"))))
    emptied = msgspec.structs.replace(found, context=Plain())
    assert read(encoder(Wider), encoder(Plain).encode(emptied).body).context.inner is None


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        (Listed, ListedWider, ListedWider(many=[WiderInner(nick="x")])),
        (Cat | OlderDog, Cat | Dog, Dog(tricks=3)),
        (Point, Point3, Point3(1, 2)),
    ],
    ids=["list", "union", "array"],
)
def test_a_write_that_would_lose_unknown_fields_is_refused(old: Any, new: Any, state: Any) -> None:
    found = read(encoder(old), body(new, state))
    with pytest.raises(SchemaVersionError):
        encoder(old).encode(found)


def test_a_model_is_validated_on_a_read() -> None:
    stored = body(Model, Model(step=3, fullName="Ann"))
    assert b'"fullName":"Ann"' in stored
    assert read(encoder(Model), stored).context == Model(step=3, fullName="Ann")
    with pytest.raises(DecodeError):
        read(encoder(Model), stored.replace(b'"step":3', b'"step":-3'))


def test_a_model_that_would_not_survive_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        encoder(Excluded).encode(session(Excluded(hidden=3)))
    with pytest.raises(InvalidInputError):
        encoder(Model).encode(session(WiderModel(extra="x")))
    with pytest.raises(InvalidInputError):
        encoder(Model).encode(session({"step": 1}))


def test_a_model_refuses_or_keeps_unknown_fields_as_its_config_says() -> None:
    found = read(encoder(Model), body(WiderModel, WiderModel(extra="x")))
    with pytest.raises(SchemaVersionError):
        encoder(Model).encode(found)
    found = read(encoder(OpenModel), body(dict, {"step": 1, "extra": "x"}))
    assert b'"extra":"x"' in encoder(OpenModel).encode(found).body


def test_compatible_types_pass() -> None:
    assert_compatible(Plain, Wider, examples=30)


def test_an_upgrade_counts_as_compatible() -> None:
    assert_compatible(Plain, Wider, schema_version=2, upgrades={1: dict}, examples=20)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (Plain, Retyped, "the new type cannot read a state of the old type"),
        (Listed, ListedWider, "a worker with the old type cannot write the state"),
    ],
)
def test_incompatible_types_are_named(old: Any, new: Any, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        assert_compatible(old, new, examples=50)
