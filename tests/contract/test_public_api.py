"""What users import, call and have pickled stays what it is."""

from __future__ import annotations

import base64
import json
import pickle
import pickletools
from typing import Any

import msgspec
import pytest

import greentic_session
from greentic_session import ordering

from ..support.public_api import GOLDEN, PICKLES, samples, surface

SAMPLES = samples()
STORED: dict[str, str] = json.loads(PICKLES.read_bytes())


def test_public_names_and_signatures_are_those_of_the_golden_list() -> None:
    # A change that is meant: run `python -m tests.support.public_api` and review the difference.
    assert surface().splitlines() == GOLDEN.read_text("utf-8").splitlines()


def test_every_public_error_and_struct_has_a_sample_and_a_stored_pickle() -> None:
    data = {
        name
        for module in (greentic_session, ordering)
        for name in module.__all__
        for value in (getattr(module, name),)
        if isinstance(value, type)
        and (
            issubclass(value, msgspec.Struct | tuple | Exception)
            or "__dataclass_fields__" in vars(value)
        )
    }
    assert data == set(SAMPLES) == set(STORED)


def _facts(value: object) -> Any:
    if isinstance(value, Exception):
        return type(value), str(value), value.args, vars(value)
    if isinstance(value, greentic_session.UnreadableSession):  # errors are equal to themselves only
        return type(value), value.key, _facts(value.error)
    return type(value), value


@pytest.mark.parametrize("name", STORED)
def test_a_pickle_of_the_first_layout_still_loads(name: str) -> None:
    found = pickle.loads(base64.b64decode(STORED[name]))  # noqa: S301 - our own bytes
    assert _facts(found) == _facts(SAMPLES[name])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_new_pickle_names_the_public_path_and_loads(name: str) -> None:
    data = pickle.dumps(SAMPLES[name], protocol=4)
    found = pickle.loads(data)  # noqa: S301 - our own bytes
    assert _facts(found) == _facts(SAMPLES[name])
    texts = [arg for op, arg, _ in pickletools.genops(data) if op.name.endswith("UNICODE")]
    modules = {text for text in texts if str(text).startswith("greentic_session")}
    # The function that rebuilds an error stands beside the errors, in a public module.
    modules -= {"greentic_session.errors"} if "_rebuild" in texts else set()
    assert modules <= {"greentic_session", "greentic_session.ordering"}
