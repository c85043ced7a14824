"""Servers in every topology that a store supports, with their failures.

* :class:`StandaloneRig`: one server.
* :class:`SentinelRig`: a master, its replicas and three sentinels.
* :class:`ClusterRig`: three masters and three replicas.

Each rig starts processes of its own on loopback. It is used with ``async with`` on asyncio, and its
:attr:`url` opens a store. Its :class:`Node` objects can be killed, paused, resumed and started
again. Rigs poll for a condition and do not sleep for a fixed time.

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
