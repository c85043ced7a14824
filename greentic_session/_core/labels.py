"""The texts of indexed labels, which records store and indexes are named by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NOT_COMPARED", "kept_labels", "label_of", "labels_of", "query_labels"]

NOT_COMPARED: Final = "-"
"""Stands for the labels of a session in a store without indexed labels. No text of labels is so."""


def kept_labels(owner: str, labels: str) -> str:
    """Return the argument of a script that keeps the labels of a session, if they are still these.

    :param owner: owner of the session.
    :param labels: texts of its labels, one a line.
    """
    return f"{NOT_COMPARED}\n{owner}\n{labels}"


_MAX_VALUE_CHARS: Final = 128
_SAFE: Final = " !\"#$&'()+,/;<>@^`|"


def label_of(name: str, value: object) -> str:
    """Return the text of a label with a value that can be indexed, otherwise an empty text.

    The type is a part of the text, so ``1``, ``True`` and ``"1"`` are different values.
    """
    if type(value) is str:
        text = quote(value, safe=_SAFE, errors="surrogatepass")
        if len(text) > _MAX_VALUE_CHARS:
            digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
            return f"{quote(name, safe=_SAFE)}=h{digest}"
        return f"{quote(name, safe=_SAFE)}=s{text}"
    if type(value) is bool:
        return f"{quote(name, safe=_SAFE)}=b{int(value)}"
    if type(value) is int:
        return f"{quote(name, safe=_SAFE)}=i{value}"
    return ""


def labels_of(names: Sequence[str], labels: Mapping[str, object]) -> str:
    """Return the texts of a session's indexed labels, one a line."""
    texts = (label_of(name, labels[name]) for name in names if name in labels)
    return "\n".join(text for text in texts if text)


def query_labels(names: Sequence[str], labels: object) -> tuple[str, ...]:
    """Return the texts of the labels that a search asks for.

    :param names: the indexed labels of the store.
    :raises InvalidInputError: a label is not indexed, or its value is not a str, int or bool.
    """
    if not isinstance(labels, Mapping):
        raise InvalidInputError("labels", f"expected a mapping, got {type(labels).__name__}")
    texts: list[str] = []
    for name, value in cast("Mapping[object, object]", labels).items():
        if not isinstance(name, str) or name not in names:
            raise InvalidInputError("labels", "names a label that the store does not index")
        text = label_of(name, value)
        if not text:
            found = type(value).__name__
            raise InvalidInputError("labels", f"expected a str, int or bool, got {found}")
        texts.append(text)
    return tuple(texts)
