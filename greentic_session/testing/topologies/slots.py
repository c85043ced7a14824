"""Hash slots: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/"""

from __future__ import annotations

import binascii
from typing import Final

__all__ = ["SLOTS", "slot_of"]

SLOTS: Final = 16_384


def slot_of(name: str | bytes) -> int:
    """Return the slot of a name in the server: CRC16 (XMODEM) of its hash tag, if it has one."""
    data = name.encode() if isinstance(name, str) else name
    start = data.find(b"{")
    end = data.find(b"}", start + 1)
    if start >= 0 and end > start + 1:
        data = data[start + 1 : end]
    return binascii.crc_hqx(data, 0) % SLOTS
