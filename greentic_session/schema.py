"""JSON Schema of stored bodies and of sessions, for documentation and other languages."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from .codec import SessionBody
from .errors import InvalidInputError
from .model import Cas, OutboxEntry, ReplyScope, Session, SessionCursor, SessionMeta, TenantCtx

__all__ = ["json_schema"]

_ROOTS: Final = {"SessionBody": SessionBody, "Session": Session}
_PREFIX: Final = "#/$defs/"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(context_type: Any = dict) -> dict[str, Any]:  # Any: any type; JSON values
    """Return one JSON Schema document with a definition per struct under ``$defs``.

    ``SessionBody`` is the content of a record's ``body`` field. ``Session`` is the whole session,
    as an application may pass it on. The document contains the application's own types too. If one
    of them is named ``Session`` or ``SessionBody``, it keeps that name, and the definition of this
    library is ``Session_…_``.

    The document itself is the schema of ``Session``, by its ``$ref``.

    :param context_type: type of :attr:`Session.context`.
    :returns: a JSON Schema 2020-12 document, as plain ``dict``.
    :raises InvalidInputError: naming ``context_type``, if msgspec has no schema for it.
    """
    roots = {name: cast("Any", struct)[context_type] for name, struct in _ROOTS.items()}
    types = [*roots.values(), SessionMeta, SessionCursor, OutboxEntry, ReplyScope, TenantCtx, Cas]
    try:
        references, found = msgspec.json.schema_components(types, ref_template=f"{_PREFIX}{{name}}")
    except (TypeError, NameError) as error:
        raise InvalidInputError("context_type", str(error)) from error
    # msgspec adds the parameter to a generic struct's name. Applications expect the plain name.
    plain = {
        reference["$ref"].removeprefix(_PREFIX): name
        for reference, name in zip(references, roots, strict=False)
        if name not in found
    }
    text = msgspec.json.encode({plain.get(name, name): node for name, node in found.items()})
    for name, better in plain.items():
        old, new = (f'"$ref":"{_PREFIX}{each}"'.encode() for each in (name, better))
        text = text.replace(old, new)
    reference = references[1]["$ref"].removeprefix(_PREFIX)
    root = f"{_PREFIX}{plain.get(reference, reference)}"
    return {"$schema": _DIALECT, "$ref": root, "$defs": msgspec.json.decode(text)}
