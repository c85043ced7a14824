"""A private Valkey in a folder, shared by the processes that open it, gone with the last.

.. code-block:: text

    process A ──┐ shares users.lock                        ┌ holds keeper.lock
    process B ──┼──────────────► folder/ ◄──── keeper ─────┤ waits for users.lock, exclusively
    process C ──┘ server.sock ─► valkey-server ◄───────────┘ its child; restarted when it dies

* Whoever finds ``keeper.lock`` free takes it and hands it on to a keeper that it starts: there is
  one keeper to a folder, and so one server.
* The kernel gives up the locks of a process however it ends. So the keeper gets ``users.lock`` when
  the last process is gone, also by SIGKILL; it holds that lock until server and keeper are gone,
  and who opens the folder meanwhile waits and then starts anew.
* The keeper holds ``server.lock`` together with the server, which inherits it: the successor of a
  keeper that was killed waits until no server writes to the folder.
* The server is told by the kernel when its keeper dies (Linux), or by the next keeper (elsewhere).

Paths stand in no command line and in no message.
"""

from .server import EmbeddedServer
from .store import embedded_session_store

__all__ = ["EmbeddedServer", "embedded_session_store"]
