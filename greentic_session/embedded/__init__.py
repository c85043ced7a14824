"""A private Valkey server in a folder. The processes that open it share it, and the last stops it.

.. code-block:: text

    process A ──┐ shares users.lock                        ┌ holds keeper.lock
    process B ──┼────────────► folder/ ◄──── supervisor ───┤ waits for users.lock, exclusively
    process C ──┘ server.sock ─► valkey-server ◄───────────┘ its child, restarted when it dies

* A process that finds ``keeper.lock`` free takes it, starts a supervisor, and passes the lock to
  it. So a folder has one supervisor, and one server.
* The kernel releases the locks of a process when it ends, even by SIGKILL. So the supervisor gets
  ``users.lock`` when the last process has ended. It holds that lock until server and supervisor
  have ended. A process that opens the folder meanwhile waits, and then starts a new supervisor.
* The supervisor holds ``server.lock`` together with the server, which inherits it. So the successor
  of a supervisor that was killed waits until no server writes to the folder.
* If the supervisor dies, the kernel signals the server (Linux), or the next supervisor stops it
  (elsewhere).

No command line and no message contains a path.
"""

import sys

if sys.platform != "win32":  # it has neither file locks nor the server's program
    from .server import EmbeddedServer
    from .store import embedded_session_store

__all__ = ["EmbeddedServer", "embedded_session_store"]
