"""Which messages wait for one another: orders of a shop, devices in the field, pull requests.

Each message gets a key. Messages with the same key are handled in order. Messages with different
keys run concurrently, and a message without a key waits for no other. The program sends nothing::

    python examples/orders.py

The messages are of any kind: msgspec structs, dataclasses, plain JSON.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from greentic_session import ManualClock
from greentic_session.ordering import (
    CompositeKeyStrategy,
    DynamicStrategy,
    FallbackStrategy,
    KeyStrategy,
    NoOrderingStrategy,
    SessionKeyExtractor,
    SingleFieldStrategy,
    TimePartitionedStrategy,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


class OrderEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the shop. Not every event has an order yet."""

    what: str
    customer_id: str
    order_id: int | None = None
    line_item_id: str | None = None


@dataclass(frozen=True)
class Telemetry:
    """A report of a device. The order of heartbeats does not matter."""

    site: str
    device_id: str
    what: str


# The most specific key of the event. Events of an item wait for one another, but not for those of
# its order.
BY_ORDER: Final = FallbackStrategy(
    [
        SingleFieldStrategy("line_item_id", "item"),
        SingleFieldStrategy("order_id", "order"),
        SingleFieldStrategy("customer_id", "customer"),
    ]
)
ORDERS: Final = [
    OrderEvent(what="placed", customer_id="ann", order_id=12345),
    OrderEvent(what="placed", customer_id="bob", order_id=12346),
    OrderEvent(what="picked", customer_id="ann", order_id=12345, line_item_id="a7"),
    OrderEvent(what="address changed", customer_id="ann"),
    OrderEvent(what="paid", customer_id="ann", order_id=12345),
    OrderEvent(what="packed", customer_id="ann", order_id=12345, line_item_id="a7"),
]

# A device reports without end. It gets a new session every six hours.
CLOCK: Final = ManualClock(1_709_207_940_000)  # 2024-02-29T11:59:00Z
BY_DEVICE: Final = TimePartitionedStrategy(
    CompositeKeyStrategy(["site", "device_id"], "/"), hours=6, clock=CLOCK
)


def by_kind(telemetry: SessionKeyExtractor) -> KeyStrategy:
    """Order measurements by device, and leave heartbeats unordered."""
    heartbeat = telemetry.get_metadata("what") == "heartbeat"
    return NoOrderingStrategy() if heartbeat else BY_DEVICE


TELEMETRY: Final = [
    Telemetry("us-west-2", "pump-1", "started"),
    Telemetry("us-west-2", "pump-2", "started"),
    Telemetry("us-west-2", "pump-1", "heartbeat"),
    Telemetry("us-west-2", "pump-1", "leaking"),
]

# Webhooks in JSON. The key is the pull request, or the repository if there is none.
BY_PULL_REQUEST: Final = FallbackStrategy(
    [
        CompositeKeyStrategy(["repository.full_name", "pull_request.number"], "#"),
        SingleFieldStrategy("repository.full_name"),
    ]
)
WEBHOOKS: Final = [
    b'{"action": "opened", "repository": {"full_name": "acme/web"}, "pull_request": {"number": 7}}',
    b'{"action": "opened", "repository": {"full_name": "acme/api"}, "pull_request": {"number": 7}}',
    b'{"action": "pushed", "repository": {"full_name": "acme/web"}}',
    b'{"action": "merged", "repository": {"full_name": "acme/web"}, "pull_request": {"number": 7}}',
    b'{"action": "ping"}',
]


def show(title: str, strategy: KeyStrategy, messages: Iterable[tuple[str, object]]) -> None:
    """Print the messages of each key in their order."""
    lanes: dict[str | None, list[str]] = defaultdict(list)
    for name, message in messages:
        lanes[strategy.key_of(message)].append(name)
    print(f"{title}:")
    for key, names in lanes.items():
        print(f"  {key or '(at once)':<26}{', '.join(names)}")


def main() -> None:
    """Show the three domains."""
    show("orders", BY_ORDER, ((event.what, event) for event in ORDERS))
    by_device = DynamicStrategy(by_kind)
    for time in ("11:59", "12:00"):
        show(f"devices at {time} UTC", by_device, ((sent.what, sent) for sent in TELEMETRY))
        CLOCK.advance(60)
    decoded = [msgspec.json.decode(webhook, type=dict[str, object]) for webhook in WEBHOOKS]
    show("pull requests", BY_PULL_REQUEST, ((str(hook["action"]), hook) for hook in decoded))


if __name__ == "__main__":
    main()
