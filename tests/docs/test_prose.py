"""Tests of the language rules: counts per folder, with limits that only decrease.

Per 1,000 words of Markdown, docstrings and Lua headers there is at most 0.1 "``who``",
"``whoever``" or "``nobody``", and 1 semicolon. A banned word needs a listed reason. A folder that
does not meet the rules yet has its own limits in ``tests/vectors/prose.json``. No new folder may
get such limits. The name of a test has none of these words.
"""

from __future__ import annotations

import pytest

from ..support import prose


@pytest.mark.parametrize("folder", prose.folders())
def test_prose_of_a_folder_keeps_its_limits(folder: str) -> None:
    count = prose.counts()[folder]
    limits = prose.final_limits(count["words"]) | prose.limits().get(folder, {})
    over = {kind: (count[kind], limit) for kind, limit in limits.items() if count[kind] > limit}
    assert over == {}, f"counted, limit: {over}"


def test_names_of_tests_have_no_banned_word() -> None:
    names = [*prose.names_of_tests()]
    assert len(names) > 1000
    found = {f"{name.file}: {name.words}": prose.banned_in_name(name) for name in names}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("who waits is served", ["who"]),
        ("a session is nobodys and begins anew", ["nobodys", "anew"]),
        ("a session whose owner is known is found by someone", ["someone"]),
        ("a waiting caller is served", []),
    ],
)
def test_name_of_a_test_is_searched_for_persons_and_banned_words(
    words: str, expected: list[str]
) -> None:
    assert prose.banned_in_name(prose.Text("x.py", words)) == expected


def test_pages_follow_the_rules_already() -> None:
    assert [folder for folder in prose.limits() if folder.endswith(".md")] == []


def test_limits_name_folders_that_exist() -> None:
    assert set(prose.limits()) <= set(prose.folders())


def test_allowed_words_are_still_there() -> None:
    found = {
        (text.file, word.lower())
        for text in prose.texts()
        for word in prose._BANNED.findall(text.words)
    }
    assert set(prose.ALLOWED) <= found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who asks; nobody answers.", {"who": 2, "semicolon": 1}),
        ("``a; b`` and `who` and :func:`nobody`", {}),
        ("A whole word: whose, somebody's.", {}),
        ("It shall be done anew.", {"banned": 2}),
    ],
)
def test_counting_skips_code(text: str, expected: dict[str, int]) -> None:
    plain = prose.Text("x.py", prose._plain(text))
    found = {
        "who": len(prose._WHO.findall(plain.words)),
        "semicolon": plain.words.count(";"),
        "banned": len(prose.banned_in(plain)),
    }
    assert {kind: count for kind, count in found.items() if count} == expected


def test_a_literal_block_is_no_prose() -> None:
    text = "Run it::\n\n    who; nobody\n\nThen more.\n\n.. code-block:: python\n\n    who;\n\nEnd."
    assert prose._without_literal_blocks(text).split() == ["Run", "it::", "Then", "more.", "End."]
