"""The scripts that reach a server are those of the first layout, but for comments."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from greentic_session.redis import scripts
from greentic_session.redis.transport.script import Script

DIGESTS = json.loads((Path(__file__).parent / "vectors" / "lua_code.json").read_bytes())


def _code(source: str) -> str:
    lines = (re.sub(r"\s+-- .*$", "", line).strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("--"))


def test_the_code_of_each_script_is_unchanged() -> None:
    found = [value for value in vars(scripts).values() if isinstance(value, Script)]
    found.append(Script("touch_for_wait"))
    digests = {
        script.name: hashlib.sha256(_code(script.source.decode()).encode()).hexdigest()
        for script in found
    }
    assert digests == DIGESTS
