"""Servers in every arrangement that a store can meet, and what goes wrong with them.

* :class:`StandaloneRig`: one server.
* :class:`SentinelRig`: a master, its replicas and three sentinels.
* :class:`ClusterRig`: three masters and three replicas.

Each is made of processes of its own on loopback, is held with ``async with`` on asyncio, and gives
its :attr:`url`. Its :class:`Node` objects can be killed, paused, resumed and started again. Nothing
waits for a time: what a rig says it waited for is so.

.. code-block:: python

    async with ClusterRig(valkey_binary()) as rig:
        store = create_session_store(rig.url)
        ...
        await rig.kill(await rig.master_of(rig.slot_of("key")))
        await rig.until_ok()
"""

from .cluster import ClusterRig
from .link import RefusedError
from .node import Node
from .sentinel import SentinelRig
from .slots import SLOTS, slot_of
from .standalone import StandaloneRig

__all__ = [
    "SLOTS",
    "ClusterRig",
    "Node",
    "RefusedError",
    "SentinelRig",
    "StandaloneRig",
    "slot_of",
]
