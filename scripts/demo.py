"""What ``scripts/demo`` shows once the environment is there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from greentic_session.testing.servers import LocalServer, valkey_binary

EXAMPLES = Path(__file__).parent.parent / "examples"
KILL_AFTER = 12
"""Messages that the first worker may send before it is killed."""


def run(title: str, *command: str) -> str:
    """Run an example, show what it prints, and return it."""
    print(f"\n=== {title}", flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=_environ())
    print(done.stdout, end="", flush=True)
    return done.stdout


def _environ() -> dict[str, str]:
    # The demonstration chooses its stores by itself.
    hidden = ("GREENTIC_SESSION_URL", "REDIS_URL")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def killed_half_way(command: list[str], sent: Path) -> int:
    """Run a worker until it has sent some messages, kill it, and return how many it had sent."""
    worker = subprocess.Popen([*command, "--pace", "20"], stdout=subprocess.DEVNULL, env=_environ())
    ends_at = time.monotonic() + 30
    try:
        while (count := _lines(sent)) < KILL_AFTER:
            if worker.poll() is not None or time.monotonic() > ends_at:
                raise SystemExit("the worker ended before it could be killed")
            time.sleep(0.01)  # between two looks at the log
    finally:
        worker.kill()
        worker.wait()
    return count


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    """Run everything, and check that a kill changed nothing that a user sees."""
    python = sys.executable
    worker = str(EXAMPLES / "telegram_worker.py")
    run("Quickstart, in memory", python, str(EXAMPLES / "quickstart.py"))
    expected = run("Telegram worker, in memory", python, worker, "--url", "memory://")
    with LocalServer(valkey_binary()) as server, tempfile.TemporaryDirectory() as folder:
        sent = Path(folder) / "sent.jsonl"
        command = [python, worker, "--url", server.url, "--sent", str(sent)]
        print("\n=== Telegram worker, on a real Valkey, killed half way", flush=True)
        count = killed_half_way(command, sent)
        print(f"killed with SIGKILL after {count} messages", flush=True)
        resumed = run("The same worker again", *command)
    if resumed != expected:
        raise SystemExit("the killed and resumed worker told its users something else")
    print("\nSame messages as in memory: nobody was asked twice, nobody was forgotten.")


if __name__ == "__main__":
    main()
