"""The choice of the topology that a configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cluster import ClusterTopology
from .sentinel import SentinelTopology
from .topology import Standalone, Topology

if TYPE_CHECKING:
    from ...config import RedisConfig
    from .server_process import ServerProcess

__all__ = ["topology_for"]


def topology_for(config: RedisConfig, host: ServerProcess | None) -> Topology:
    """Return the topology that a configuration asks for, bound to the running event loop.

    :param config: the checked configuration.
    :param host: the process of the server, if the store starts the server itself.
    """
    if config.sentinel is not None:
        return SentinelTopology(config, config.sentinel)
    if config.cluster:
        return ClusterTopology(config, config.cluster)
    return Standalone(config, host)
