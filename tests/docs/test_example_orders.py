"""Tests of the example of key strategies."""

from __future__ import annotations

from .test_examples import output_of

ORDERS = """\
orders:
  order-12345               placed, paid
  order-12346               placed
  item-a7                   picked, packed
  customer-ann              address changed
devices at 11:59 UTC:
  us-west-2/pump-1-p79129   started, leaking
  us-west-2/pump-2-p79129   started
  (at once)                 heartbeat
devices at 12:00 UTC:
  us-west-2/pump-1-p79130   started, leaking
  us-west-2/pump-2-p79130   started
  (at once)                 heartbeat
pull requests:
  acme/web#7                opened, merged
  acme/api#7                opened
  acme/web                  pushed
  (at once)                 ping
"""


def test_orders_print_their_result() -> None:
    assert output_of("orders.py") == ORDERS
