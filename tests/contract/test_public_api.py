"""Tests that public imports, signatures and pickled forms do not change."""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import pickle
import pickletools
from typing import Any, get_type_hints

import msgspec
import pytest

import greentic_session
from greentic_session import ordering
from greentic_session.ordering import CompositeKeyStrategy, LifecycleHooks

from ..support.public_api import GOLDEN, PICKLES, samples, surface

SAMPLES = samples()
STORED: dict[str, str] = json.loads(PICKLES.read_bytes())


def test_public_names_and_signatures_are_those_of_the_golden_list() -> None:
    # For an intended change: run `python -m tests.support.public_api` and review the difference.
    assert surface().splitlines() == GOLDEN.read_text("utf-8").splitlines()


EVERY_CLASS = [
    pytest.param(value, id=name)
    for module in (greentic_session, ordering)
    for name in module.__all__
    for value in (getattr(module, name),)
    if isinstance(value, type) and value is not LifecycleHooks
]


@pytest.mark.parametrize("cls", EVERY_CLASS)
def test_annotations_of_a_public_class_can_be_evaluated(cls: type[Any]) -> None:
    # LifecycleHooks is left out: it holds callables, whose type exists for checkers only.
    assert get_type_hints(cls).keys() >= inspect.get_annotations(cls).keys()


def test_a_strategy_can_be_decoded_from_configuration() -> None:
    strategy = CompositeKeyStrategy(["a", "b"])
    assert msgspec.convert({"fields": ["a", "b"]}, CompositeKeyStrategy) == strategy


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("extraction", "text_of"),
        ("extraction", "extractor_for"),
        ("hooks", "LifecycleHooks"),
        ("limits", "LifecycleLimits"),
        ("mail", "Mail"),
        ("metrics", "export_metrics"),
        ("time_partition", "TimePartitionedStrategy"),
        ("turns", "InboxTurn"),
    ],
)
def test_a_module_of_the_first_layout_can_be_imported_by_pickles(module: str, name: str) -> None:
    found = importlib.import_module(f"greentic_session.ordering.{module}")
    assert getattr(found, name) is getattr(ordering, name)


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


def _facts(value: object, *, with_text: bool = True) -> Any:
    if isinstance(value, Exception):
        return type(value), vars(value), (str(value), value.args) if with_text else None
    if isinstance(value, greentic_session.UnreadableSession):  # errors only equal themselves
        return type(value), value.key, _facts(value.error, with_text=with_text)
    return type(value), value


@pytest.mark.parametrize("name", STORED)
def test_a_pickle_of_the_first_layout_still_loads(name: str) -> None:
    found = pickle.loads(base64.b64decode(STORED[name]))  # noqa: S301 - our own bytes
    # The text of an error is the one of the version that pickled it.
    assert _facts(found, with_text=False) == _facts(SAMPLES[name], with_text=False)
    assert str(found)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_new_pickle_names_the_public_path_and_loads(name: str) -> None:
    data = pickle.dumps(SAMPLES[name], protocol=4)
    found = pickle.loads(data)  # noqa: S301 - our own bytes
    assert _facts(found) == _facts(SAMPLES[name])
    texts = [arg for op, arg, _ in pickletools.genops(data) if op.name.endswith("UNICODE")]
    modules = {text for text in texts if str(text).startswith("greentic_session")}
    # The function that rebuilds an error is in the same public module as the errors.
    modules -= {"greentic_session.errors"} if "_rebuild" in texts else set()
    assert modules <= {"greentic_session", "greentic_session.ordering"}
