"""Tests that a script's header, its argument function and the locals that it binds agree."""

from __future__ import annotations

import inspect
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import pytest

from greentic_session.redis import scripts as all_scripts
from greentic_session.redis.scripts import affinity, inbox, locks, sessions, waits
from greentic_session.redis.transport.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greentic_session.redis.transport.protocol import Arguments

MODULES: Final = (affinity, inbox, locks, sessions, waits)

_FIXED: Final = re.compile(r"^--.*ARGV 1-(\d)", re.MULTILINE)
_ARGUMENT: Final = re.compile(r"^--(?: ARGV {1,2}| {5,7})(\d+|\.\.\.) +([a-z_]+)(?:  .*)?$")
_CONTINUED: Final = re.compile(r"^-- {9,}")
_BOUND: Final = re.compile(r"^local ([\w, ]+) = ((?:ARGV\[\d+\](?:, )?)+)$", re.MULTILINE)


class Header(NamedTuple):
    """The ARGV section of an entry file's header.

    :ivar first: the first number that is the script's own. The earlier numbers are the same for all
        scripts of a subject, and the code that runs the scripts adds them.
    :ivar names: names of the numbered arguments, in order.
    :ivar rest: names of the arguments after the numbered ones, repeated any number of times.
    """

    first: int
    names: list[str]
    rest: list[str]


def header_of(entry: str) -> Header:
    """Parse the header of an entry file.

    :raises ValueError: if a number is left out.
    """
    header = Header(1 + int(cast("re.Match[str]", _FIXED.search(entry))[1]), [], [])
    is_argv = False
    for line in entry.splitlines():
        if not line.startswith("--"):
            break
        found = _ARGUMENT.match(line)
        is_argv = line.startswith("-- ARGV  ") or (
            is_argv and (found is not None or _CONTINUED.match(line) is not None)
        )
        if not is_argv or found is None:
            continue
        if found[1] == "...":
            header.rest.append(found[2])
        elif int(found[1]) >= header.first:
            header.names.append(found[2])
            if int(found[1]) != header.first + len(header.names) - 1 or header.rest:
                raise ValueError(f"{line} is out of order")
    return header


def bound(source: str, first: int) -> list[str]:
    """Return the names of the locals that a script binds to its own part of ARGV, in order.

    :raises ValueError: if a number is bound twice or left out.
    """
    pairs = [
        (int(number), name)
        for names, values in _BOUND.findall(source)
        for name, number in zip(
            names.split(", "), re.findall(r"ARGV\[(\d+)\]", values), strict=True
        )
        if int(number) >= first
    ]
    if sorted(number for number, _ in pairs) != [first + index for index in range(len(pairs))]:
        raise ValueError(f"not each once: {pairs}")
    return [name.lower() for _, name in sorted(pairs)]


def disagreements(entry: str, source: str, parameters: list[str]) -> list[str]:
    """Return the differences of an entry file, its complete script, and the parameters."""
    header = header_of(entry)
    locals_ = bound(source, header.first)
    found = []
    if header.names + header.rest != parameters:
        found.append(f"the header has {header}, the function {parameters}")
    if locals_ != header.names:
        found.append(f"the header has {header}, the script binds {locals_}")
    if ("#ARGV" in entry) != bool(header.rest):
        found.append(f"the header has {header}, and the script reads the rest otherwise")
    if re.search(r"ARGV\[\d", _BOUND.sub("", entry)):
        found.append("the script reads ARGV by a number outside of the binding")
    return found


class Case(NamedTuple):
    """A script and the function that builds its arguments."""

    script: Script
    build: Callable[..., Arguments]

    @property
    def entry(self) -> str:
        """Text of the entry file."""
        path = files("greentic_session.redis").joinpath("lua", f"{self.script.name}.lua")
        return path.read_text("utf-8")

    @property
    def parameters(self) -> list[str]:
        """Names of the function's parameters, with the one of `with_schema_version`."""
        names = list(inspect.signature(self.build).parameters)
        # A script that writes a record gets the version as its last argument, if there is one.
        return [*names, "new_schema_version"] if "new_body" in names else names


def _cases() -> Iterator[Case]:
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, Script):
                yield Case(value, getattr(module, f"{name.lower()}_arguments"))


CASES: Final = list(_cases())
each_script = pytest.mark.parametrize("case", CASES, ids=lambda case: case.script.name)


@each_script
def test_header_function_and_locals_of_a_script_agree(case: Case) -> None:
    assert disagreements(case.entry, case.script.source.decode(), case.parameters) == []


@each_script
def test_the_function_returns_its_parameters_in_order(case: Case) -> None:
    parameters = inspect.signature(case.build).parameters
    given: dict[str, Any] = {
        name: parameter.annotation == "bool" or 1000 + index
        for index, (name, parameter) in enumerate(parameters.items())
    }
    returned = [1 if value is True else value for value in given.values()]
    if "removals" in given:
        given["removals"], given["events"] = [("a", "b", 1, "c")], [("d", 2)]
        returned[-2:] = [1, "a", "b", 1, "c", "d", 2]
    positional = [
        given.pop(name)
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    assert list(case.build(*positional, **given)) == returned


def test_every_script_of_a_module_is_exported_by_the_package() -> None:
    for module in MODULES:
        for name in module.__all__:
            if isinstance(script := getattr(module, name), Script):
                assert getattr(all_scripts, name) is script


def test_the_texts_of_the_library_read_no_argument_of_a_script() -> None:
    library = files("greentic_session.redis").joinpath("lua", "lib")
    entries = "".join(case.entry for case in CASES)
    for name in set(re.findall(r"^--@include lib/(\w+)$", entries, re.MULTILINE)):
        text = library.joinpath(f"{name}.lua").read_text("utf-8")
        assert set(re.findall(r"ARGV\[([^\]]+)\]", text)) <= {"1", "2", "3"}, name


ENTRY: Final = """-- Do a thing.
--
-- KEYS, ARGV 1-3: see lib/record.
-- KEYS  3 events   ZSET  events
-- ARGV  4 owner        team/user
--       5 ttl_ms       lifetime in ms, which
--                      takes two lines
--       6 body
--     ... events       pairs
-- Returns {1}.

local owner, ttl_ms, body = ARGV[4], ARGV[5], ARGV[6]

for i = 7, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
"""
PARAMETERS: Final = ["owner", "ttl_ms", "body", "events"]


def _of(entry: str) -> list[str]:
    return disagreements(entry, entry, PARAMETERS)


def test_an_entry_that_agrees_passes() -> None:
    assert _of(ENTRY) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("5 ttl_ms ", "5 ttl_secs "),
        ("--       6 body\n", ""),
        ("--     ... events       pairs\n", ""),
        ("owner, ttl_ms, body =", "ttl_ms, owner, body ="),
        (", body = ARGV[4], ARGV[5], ARGV[6]", " = ARGV[4], ARGV[5]"),
        ("for i = 7, #ARGV", "for i = 7, 9"),
        ("ARGV[i]", "ARGV[8]"),
        ("ARGV 1-3", "ARGV 1-4"),
    ],
)
def test_a_planted_difference_is_found(old: str, new: str) -> None:
    assert old in ENTRY
    assert _of(ENTRY.replace(old, new)) != []


@pytest.mark.parametrize(
    ("old", "new"), [("6 body", "7 body"), ("ARGV[5], ARGV[6]", "ARGV[6], ARGV[6]")]
)
def test_a_number_that_is_left_out_is_found(old: str, new: str) -> None:
    with pytest.raises(ValueError, match=r"out of order|each once"):
        _of(ENTRY.replace(old, new))
