"""JSON Schema of what is stored, for documentation and other languages."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from .codec import SessionBody
from .errors import InvalidInputError
from .model import Cas, OutboxEntry, ReplyScope, Session, SessionCursor, SessionMeta, TenantCtx

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(context_type: Any = dict) -> dict[str, Any]:  # Any: any type; JSON values
    """Return one JSON Schema document with a definition per struct under ``$defs``.

    ``SessionBody`` is what a record's ``body`` field holds; ``Session`` is the whole, as an
    application may pass it on. The application's own types stand in their place.

    :param context_type: type of :attr:`Session.context`.
    :returns: a JSON Schema 2020-12 document, as plain ``dict``.
    :raises InvalidInputError: naming ``context_type``, if msgspec knows no schema for it.
    """
    generic = cast("Any", (SessionBody, Session))
    types = [struct[context_type] for struct in generic]
    types += [SessionMeta, SessionCursor, OutboxEntry, ReplyScope, TenantCtx, Cas]
    try:
        _, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    except TypeError as error:
        raise InvalidInputError("context_type", str(error)) from error
    return {"$schema": _DIALECT, "$defs": components}
