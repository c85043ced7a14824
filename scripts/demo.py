"""The program of ``scripts/demo``, run in the prepared environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from greentic_session.testing.servers import LocalServer, valkey_binary

EXAMPLES = Path(__file__).parent.parent / "examples"
PROCESSES = 3
DIE_AT = "20"
"""The number of the message whose sender is killed after it."""


def run(title: str, name: str, *args: str) -> tuple[str, str]:
    """Run an example, show its output, and return its standard output and standard error."""
    print(f"\n=== {title}", flush=True)
    # The demonstration chooses its stores itself.
    hidden = ("GREENTIC_SESSION_URL", "REDIS_URL")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, str(EXAMPLES / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    print(done.stdout, done.stderr, sep="", end="", flush=True)
    if done.returncode:
        raise SystemExit(f"{name} failed")
    return done.stdout, done.stderr


def main() -> None:
    """Run everything, and check that a kill changed nothing that a user sees."""
    run("Quickstart, in memory", "quickstart.py")
    expected, _ = run("Telegram worker, in memory", "telegram_worker.py")
    with LocalServer(valkey_binary()) as server, tempfile.TemporaryDirectory() as folder:
        there = ("--url", server.url)
        run(
            "Approvals, on a real Valkey: two people press at the same moment",
            "approval.py",
            *there,
        )
        told, aside = run(
            f"Telegram worker, on a real Valkey: {PROCESSES} processes, one killed in its turn",
            "telegram_worker.py",
            *(*there, "--sent", str(Path(folder) / "sent.jsonl")),
            *("--processes", str(PROCESSES), "--die-at", DIE_AT),
        )
    killed = aside.count("ended with -9")
    if told != expected or killed != 1:
        raise SystemExit("the processes sent other messages, or none was killed")
    print(f"\n{killed} of {PROCESSES} processes killed, and the same messages as in memory:")
    print("no user was asked twice, and none was forgotten.")


if __name__ == "__main__":
    main()
