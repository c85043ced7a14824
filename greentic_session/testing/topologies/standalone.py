"""One server on a loopback port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from .node import Node, Rig

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["StandaloneRig"]


@final
class StandaloneRig(Rig):
    """One server. :class:`LocalServer` is the same without asyncio.

    :param binary: ``valkey-server`` or ``redis-server``.
    :param durable: whether acknowledged writes survive :meth:`kill`, in an append-only file.
    :param options: further command-line options.
    :ivar node: the server.
    """

    def __init__(
        self, binary: Path, *, durable: bool = False, options: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.node: Final = Node(binary, options, durable=durable)
        self.nodes: tuple[Node, ...] = (self.node,)

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:port``."""
        return f"redis://{self.node.address}"
