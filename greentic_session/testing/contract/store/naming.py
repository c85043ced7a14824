"""Contract tests of keys that a store must not confuse with others, patterns or parts of names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ....model import Cas, SessionKey, TenantCtx
from ..assertions import everything, require
from ..samples import GLOBEX, ctx, session

if TYPE_CHECKING:
    from ...harness import StoreHarness

_KEYS: Final = {
    "colon": "a:b",
    "colons only": ":::",
    "brace": "{",
    "closing brace": "}",
    "braces": "{}",
    "braced": "{a}",
    "braces reversed": "}a{",
    "hash tag inside": "a}{b",
    "percent": "%",
    "escaped colon": "a%3Ab",
    "escaped colon, small": "a%3ab",
    "escaped escape": "a%253Ab",
    "escaped end": "%00",
    "star": "*",
    "stars": "a*b",
    "question mark": "?",
    "class": "[a-z]",
    "open class": "[",
    "backslash": "\\",
    "escaped star": "\\*",
    "space": " ",
    "space before": " a",
    "space after": "a ",
    "spaces inside": "a b",
    "no-break space": "a\u00a0b",
    "quotes": "'\"`",
    "dollar": "${HOME}",
    "slash": "/",
    "path": "../../etc/passwd",
    "owner": "default/acme",
    "name of a lookup": "lookup:{a}",
    "digits": "0",
    "negative": "-1",
    "null": "null",
    "none": "None",
    "small": "conversation",
    "capital": "Conversation",
    "plus": "a+b",
    "hash": "#",
    "comma": "a,b;c",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
    "ligature": "\ufb01",
    "letters of the ligature": "fi",
    "right to left": "\u05d0\u05d1 \u202e abc",
    "zero width": "a\u200bb",
    "line separator": "a\u2028b",
    "emoji": "😀",
    "family": "👩\u200d👩\u200d👧",
    "last code point": "\U0010ffff",
    "longest": "k" * 512,
    "longest but one": "k" * 511,
    "longest of two bytes": "é" * 512,
    "longest of three bytes": "中" * 512,
    "longest of four bytes": "😀" * 512,
    "longest of colons": ":" * 512,
}


@pytest.mark.anyio
class NamingContract:
    """A key of 1 to 512 characters without control characters names exactly one session."""

    @pytest.mark.parametrize("name", _KEYS)
    async def test_any_key_passes_through_every_verb(
        self, harness: StoreHarness, name: str
    ) -> None:
        store = await harness.open()
        key = SessionKey(_KEYS[name])
        cas = await store.create(session(key, context={"n": 1}))
        await store.create(session(key, owner=ctx(GLOBEX)))
        cas = await store.update_cas(session(key, context={"n": 2}, ttl_secs=1000), cas)
        found = await require(store, key)
        assert found.session.key == key
        assert found.cas == cas == Cas(value=2, incarnation=cas.incarnation)
        assert await store.get_many([key], ctx=ctx()) == [found]
        assert await everything(store) == {key: found}
        assert await store.touch(key, 0, ctx=ctx()) is True
        assert await store.delete(key, ctx=ctx()) is True
        assert await everything(store) == {}
        assert await store.get(key) == await require(store, key, ctx(GLOBEX))

    async def test_no_two_keys_are_one(self, harness: StoreHarness) -> None:
        store = await harness.open()
        keys = [SessionKey(key) for key in _KEYS.values()]
        for number, key in enumerate(keys):
            assert (await store.create(session(key, context={"n": number}))).value == 1
        found = await store.get_many(keys, ctx=ctx())
        assert [one and one.session.context["n"] for one in found] == list(range(len(keys)))
        left = await everything(store)
        assert set(left) == set(keys)
        for key in keys:
            assert await store.delete(key, ctx=ctx()) is True
            del left[key]
            assert await everything(store) == left

    @pytest.mark.parametrize("character", ":{}%*?[/ é😀")
    async def test_an_odd_key_is_not_found_by_what_it_resembles(
        self, harness: StoreHarness, character: str
    ) -> None:
        store = await harness.open()
        await store.create(session(f"a{character}b"))
        for other in (
            "ab",
            "a",
            "b",
            f"a{character}",
            f"{character}b",
            f"a{character}{character}b",
        ):
            assert await store.get(SessionKey(other), ctx=ctx()) is None
            assert await store.get(SessionKey(other)) is None

    @pytest.mark.parametrize(
        "owner",
        [
            pytest.param(ctx("t" * 128, env="e" * 128, team_id="m" * 128), id="longest"),
            pytest.param(ctx("-", env=".", team_id="_"), id="shortest"),
            pytest.param(ctx("0", env="1", team_id="2"), id="digits"),
            pytest.param(ctx(user_id="u" * 256), id="longest user"),
            pytest.param(ctx(user_id="😀" * 256), id="longest user of four bytes"),
            pytest.param(ctx(user_id="Ann O'Neil / :{}%*"), id="odd user"),
        ],
    )
    async def test_any_owner_passes_through_every_verb(
        self, harness: StoreHarness, owner: TenantCtx
    ) -> None:
        store = await harness.open()
        key = SessionKey("k")
        cas = await store.create(session(key, owner=owner))
        assert (await store.update_cas(session(key, owner=owner), cas)).value == 2
        found = await require(store, key, owner)
        assert found.session.meta == session(owner=owner).meta
        assert await store.get(key) == found
        assert await everything(store, owner) == {key: found}
        assert await store.delete(key, ctx=owner) is True
