"""Tests of sessions before a write, where the contract has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from greentic_session import (
    DecodeError,
    InvalidInputError,
    JsonCodec,
    MessagePackCodec,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    TenantMismatchError,
    WaitRegistry,
    create_session_store,
    new_session_key,
)
from greentic_session._core.survival import first_loss

if TYPE_CHECKING:
    from greentic_session.codec import SessionBody

RAW = msgspec.Raw(b'1},"user_id":"someone-else","x":{')


def make(context: Any, **labels: Any) -> Session[Any]:
    return Session(
        key=new_session_key(),
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta(tenant_id="acme", labels=labels),
        context=context,
    )


class Typed(msgspec.Struct):
    given: msgspec.Raw


@pytest.mark.parametrize("codec", [JsonCodec, MessagePackCodec])
@pytest.mark.parametrize(
    ("session", "field"),
    [
        (make({"a": 1, "b": RAW}), "context"),
        (make({}, a=RAW), "labels"),
        (make({}, a={"b": [1, {"c": RAW}]}), "labels"),
        (make({}, a=((RAW,),)), "labels"),
    ],
)
@pytest.mark.parametrize("context_type", [dict, dict[str, Any], dict[str, object]])
def test_what_is_written_unchecked_is_refused(
    codec: Any, session: Session[Any], field: str, context_type: Any
) -> None:
    store = create_session_store("memory://", context_type=context_type, codec=codec)
    with pytest.raises(InvalidInputError, match="Raw") as caught:
        store._encoder.encode(session)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("context_type", "context"),
    [(Typed, Typed(msgspec.Raw(b"1"))), (dict[str, msgspec.Raw], {"a": msgspec.Raw(b"1")})],
)
def test_a_context_type_may_name_it(context_type: Any, context: Any) -> None:
    encoder = create_session_store("memory://", context_type=context_type)._encoder
    session = make(context)
    encoded = encoder.encode(session)
    assert encoder.decode_body(session.key, encoded.body).context == context


def test_labels_that_refer_to_themselves_are_refused() -> None:
    labels: dict[str, Any] = {}
    labels["a"] = labels
    with pytest.raises(InvalidInputError, match="refers to itself"):
        create_session_store("memory://")._encoder.encode(make({}, **labels))


class Counted(msgspec.Struct):
    count: int


class CountingCodec:
    """Counts how often a body is decoded."""

    def __init__(self) -> None:
        self.decoded = 0

    def __call__(self, context_type: type[Any]) -> CountingCodec:
        """Return the codec of a context type, as a ``CodecFactory`` does."""
        self._codec = JsonCodec[Any](context_type)
        return self

    def encode(self, body: SessionBody[Any]) -> bytes:
        return self._codec.encode(body)

    def decode(self, data: bytes) -> SessionBody[Any]:
        self.decoded += 1
        return self._codec.decode(data)


@pytest.mark.anyio
@pytest.mark.parametrize("verify", ["yes", "no"])
async def test_each_attempt_of_mutate_decodes_what_it_read_and_what_it_writes_once(
    verify: str,
) -> None:
    codec = CountingCodec()
    store = create_session_store(f"memory://?verify={verify}", context_type=Counted, codec=codec)
    session = make(Counted(0))
    await store.put(session)
    rivals = [Counted(20), Counted(10)]
    attempts = 0

    def change(found: Session[Counted]) -> Session[Counted]:
        nonlocal attempts
        attempts += 1
        if rivals:  # the write of this attempt conflicts
            decoded = codec.decoded
            rival = store.put(msgspec.structs.replace(session, context=rivals.pop()))
            with pytest.raises(StopIteration):
                rival.send(None)  # the memory backend has no wait
            codec.decoded = decoded
        return msgspec.structs.replace(found, context=Counted(found.context.count + 1))

    codec.decoded = 0
    written = await store.mutate(session.key, change)
    assert written.session.context == Counted(21)
    assert attempts == 3
    assert codec.decoded == 2 * attempts
    assert await store.get(session.key) == written


@pytest.mark.anyio
@pytest.mark.parametrize(("verify", "expected"), [("yes", InvalidInputError), ("no", DecodeError)])
async def test_mutate_writes_no_session_that_it_could_not_return(
    verify: str, expected: type[Exception]
) -> None:
    store = create_session_store(f"memory://?verify={verify}", context_type=Counted)
    session = make(Counted(0))
    await store.put(session)
    text: Any = "text"
    with pytest.raises(expected):
        await store.mutate(
            session.key, lambda found: msgspec.structs.replace(found, context=Counted(text))
        )
    found = await store.get(session.key)
    assert found is not None
    assert found.session.context == Counted(0)


@pytest.mark.anyio
async def test_a_turn_refuses_a_session_of_another_owner_before_it_decodes_it() -> None:
    store = create_session_store("memory://?verify=no", context_type=Counted)
    waits = WaitRegistry(store)
    ctx, scope = TenantCtx(tenant_id="acme", user_id="ann"), ReplyScope(conversation="c")
    session = msgspec.structs.replace(make(Counted(0)), meta=SessionMeta.of(ctx))
    await waits.register_wait(ctx, "ann", scope, session)
    unreadable: Any = Counted("text")  # type: ignore[arg-type] # cannot be decoded
    other = SessionMeta(tenant_id="acme", user_id="bob")
    async with waits.resume(ctx, "ann", scope) as claim:
        with pytest.raises(TenantMismatchError):
            await claim.save(msgspec.structs.replace(claim.session, context=unreadable, meta=other))
        with pytest.raises(InvalidInputError, match="another key"):
            await claim.save(
                msgspec.structs.replace(claim.session, context=unreadable, key=SessionKey("other"))
            )


class Unlike(str):
    """Text that equals itself only, so a dict may hold it next to the equal plain text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def test_keys_that_come_back_as_one_are_a_loss() -> None:
    assert first_loss({Unlike("a"): 1, "a": 1}, {"a": 1}, "context") is not None
    assert first_loss({"a": 1, "b": (1,)}, {"a": 1, "b": [1]}, "context") is None


@dataclass(slots=True)
class Slotted:
    child: Slotted | None = None


@pytest.mark.anyio
@pytest.mark.parametrize("codec", [JsonCodec, MessagePackCodec])
@pytest.mark.parametrize("in_dict", [False, True])
async def test_a_dataclass_with_slots_may_not_be_nested_too_deeply(
    codec: Any, in_dict: bool
) -> None:
    nested: Any = None
    for _ in range(200):
        nested = Slotted(nested)
    context_type: Any = dict if in_dict else Slotted
    url = "memory://?verify=no"
    async with create_session_store(url, context_type=context_type, codec=codec) as store:
        with pytest.raises(InvalidInputError, match="max_depth"):
            await store.put(make({"x": nested} if in_dict else nested))
