"""What reads return: ``get``, ``get_many``, ``scan``, the lookup without a caller, ``scoped``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from ...model import Versioned
from .samples import KEY, ctx, session

if TYPE_CHECKING:
    from ..harness import StoreHarness


@pytest.mark.anyio
class ReadingContract:
    """What reads return."""

    async def test_get_of_an_absent_key_is_none(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.get(KEY) is None
        assert await store.get(KEY, ctx=ctx()) is None

    async def test_get_returns_what_was_put(self, harness: StoreHarness) -> None:
        store = await harness.open()
        written = session(context={"name": "Ann", "n": [1, 2.5, None, True]}, ttl_secs=60)
        cas = await store.put(written)
        found = await store.get(KEY, ctx=ctx())
        assert found is not None
        expected = msgspec.structs.replace(
            written, id=found.session.id, updated_at=found.session.updated_at
        )
        assert found == Versioned(expected, cas)
        assert found.session.id.hex == cas.incarnation
