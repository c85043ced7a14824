"""Parsers of backend URLs into the fields of a configuration."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast
from urllib.parse import parse_qsl, unquote

from .._validation import require_host, require_str
from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ParsedUrl", "parse_url", "public_part"]

_MANY: Final = ("sentinel", "cluster")
_SERVER_SCHEMES: Final = tuple(
    name + how
    for how in ("", *(f"+{many}" for many in _MANY))
    for name in ("redis", "rediss", "valkey", "valkeys")
)
_KNOWN_SCHEMES: Final = ("memory", *_SERVER_SCHEMES, "unix", "embedded")
# RFC 3986, appendix B. The standard library's parser does not accept several hosts.
_URL: Final = re.compile(r"([^:/?#]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_SLASHLESS: Final = re.compile(
    "(" + "|".join(map(re.escape, _KNOWN_SCHEMES)) + "):(?!//)", re.IGNORECASE
)
_HOST_PORT: Final = re.compile(r"(?:\[([^][]*)\]|([^][:]*))(?::([0-9]*))?")
# The texts that `float` accepts, except underscores, spaces and digits of other scripts.
_SECS: Final = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf)", re.IGNORECASE
)
_SENTINEL_PORT: Final = 26_379


class ParsedUrl(NamedTuple):
    """The parts of a URL.

    :ivar backend: the backend that the URL names.
    :ivar fields: fields of that backend's configuration. ``sentinel`` and ``tls`` are dicts of
        fields.
    """

    backend: Literal["memory", "redis", "embedded"]
    fields: dict[str, Any]  # Any: keyword arguments of differing types; the configuration checks


def parse_url(url: str) -> ParsedUrl:
    """Return the fields of the configuration in a URL.

    * ``memory://``
    * ``embedded:///path/of/a/folder``
    * ``redis://[user:password@]host[:port][/db]``, or ``rediss://…`` for TLS
    * ``unix://[user:password@]/path[?db=n]``
    * ``redis+sentinel://[user:password@]host[:port],host[:port],…/master_name[/db]``, where
      ``user`` and ``password`` are those of the master
    * ``redis+cluster://[user:password@]host[:port],host[:port],…``

    Each of them accepts ``valkey`` in place of ``redis``, and ``valkeys`` in place of ``rediss``.
    Options follow as a query. The error for an unknown option lists the known ones.

    :raises InvalidInputError: the URL or an option is invalid. The error names the option. It never
        quotes the URL, which may hold a password.
    """
    if not isinstance(cast("object", url), str):
        raise InvalidInputError("url", f"expected str, got {type(url).__name__}")
    parts = _URL.fullmatch(url)
    scheme = parts[1].lower() if parts else ""
    if parts is None and (named := _SLASHLESS.match(url)):
        name = named[1].lower()
        form = "embedded:///path: three slashes" if name == "embedded" else f"{name}://"
        raise InvalidInputError("url", f"no // after the scheme: write {form}")
    if parts is None or scheme not in _KNOWN_SCHEMES:
        known = ", ".join(f"{name}://" for name in _KNOWN_SCHEMES)
        raise InvalidInputError("url", f"unknown scheme: expected one of {known}")
    if parts[5]:
        raise InvalidInputError("url", "has a #fragment: write %23 for # in a password")
    query = parts[4] or ""
    if scheme == "memory":
        return _in_memory(parts[2], parts[3], query)
    account, _, places = parts[2].rpartition("@")
    # With an account before each of several hosts, all hosts but the last would become a part of
    # the password.
    if "," in account and ("+" in scheme or "@" in account):
        raise InvalidInputError("url", "write %2C for a comma in a password, and the account once")
    username, _, password = (_plain(part) for part in account.partition(":"))
    path = _plain(parts[3])
    if scheme == "embedded":
        return _embedded(parts[2], path, query)
    fields: dict[str, Any] = {}  # Any: as in `ParsedUrl`
    if username:
        fields["username"] = username
    if password:
        fields["password"] = password
    known_options = dict(_REDIS_OPTIONS)
    kind, _, many = scheme.partition("+")
    if kind == "unix":
        if places or not path.strip("/"):
            raise InvalidInputError("url", "expected unix:///path/of/the/socket")
        fields["unix_path"] = path
        known_options["db"] = ("db", _number)
    else:
        path = _server_address(fields, places, path, scheme).strip("/")
        if path:
            fields["db"] = _number(path, "db")
    if many == "sentinel":
        known_options |= _SENTINEL_OPTIONS
    is_tls = kind in ("rediss", "valkeys")
    if is_tls:
        known_options |= _TLS_OPTIONS
    options = _options(query, known_options)
    if is_tls:
        fields["tls"] = _taken(options, _TLS_OPTIONS)
    if many == "sentinel":
        fields["sentinel"] |= _taken(options, _SENTINEL_OPTIONS)
    return ParsedUrl("redis", fields | options)


def public_part(url: str) -> str:
    """Return the scheme and the address in a URL that :func:`parse_url` accepts, without secrets.

    The account, the options and a master's name are omitted. With several hosts, the database is
    omitted as well. If a password has a ``/`` instead of ``%2F``, the omitted parts may hold its
    rest.
    """
    backend, fields = parse_url(url)
    scheme = url.partition(":")[0].lower()
    if backend != "redis":
        return f"{scheme}://{fields.get('path', '')}"
    if "unix_path" in fields:
        return f"{scheme}://{fields['unix_path']}"
    addresses = fields.get("cluster") or fields.get("sentinel", {}).get("addresses")
    if addresses is None:
        place = _host_port(fields["host"], fields["port"])
        return f"{scheme}://{place}/{fields['db']}" if "db" in fields else f"{scheme}://{place}"
    return f"{scheme}://" + ",".join(_host_port(host, port) for host, port in addresses)


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _in_memory(place: str, path: str, query: str) -> ParsedUrl:
    if place or path not in ("", "/"):
        raise InvalidInputError("url", "memory:// takes no host and no path")
    return ParsedUrl("memory", _options(query, _MEMORY_OPTIONS))


def _embedded(places: str, path: str, query: str) -> ParsedUrl:
    if places or not path.strip("/"):
        raise InvalidInputError("url", "expected embedded:///path/of/a/folder")
    return ParsedUrl("embedded", {"path": path, **_options(query, _EMBEDDED_OPTIONS)})


def _server_address(fields: dict[str, Any], places: str, path: str, scheme: str) -> str:
    """Add the addresses of the servers to the fields, and return the rest of the path."""
    many = scheme.partition("+")[2]
    if not many:
        fields["host"], fields["port"] = _address(places, many)
        return path
    addresses = tuple(_address(place, many) for place in places.split(","))
    if many == "cluster":
        fields["cluster"] = addresses
        return path
    name, _, path = path.removeprefix("/").partition("/")
    if not name:
        raise InvalidInputError("url", f"expected {scheme}://host,host/master_name")
    fields["sentinel"] = {"addresses": addresses, "master_name": name}
    return path


def _taken(options: dict[str, Any], known: Mapping[str, _Option]) -> dict[str, Any]:
    """Remove the options of a part of the configuration, and return them as its fields."""
    fields = (field for field, _ in known.values() if field in options)
    return {field.split()[-1]: options.pop(field) for field in fields}


def _address(place: str, many: str) -> tuple[str, int]:
    if "," in place:
        raise InvalidInputError("url", "has several hosts: use +sentinel:// or +cluster://")
    found = _HOST_PORT.fullmatch(place)
    if found is None:
        raise _unparsable()
    address, name, port = found.groups(default="")
    host = _plain(address or name.lower())
    if not host:
        several = ", or several joined by commas" if many else ""
        raise InvalidInputError("url", f"expected a host after ://{several}")
    require_host(host, "host")
    if not port:
        return host, _SENTINEL_PORT if many == "sentinel" else 6379
    if len(port) > 5 or int(port) > 65_535:
        raise _unparsable()
    return host, int(port)


def _plain(quoted: str) -> str:
    # The other error may quote a password, so this one is raised outside of its handler.
    with suppress(ValueError):
        return unquote(quoted, errors="strict")
    raise _unparsable()


def _unparsable() -> InvalidInputError:
    return InvalidInputError("url", "cannot be parsed")


def _options(query: str, known: Mapping[str, _Option]) -> dict[str, Any]:
    options: dict[str, Any] = {}  # Any: as in `ParsedUrl`
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            listed = ", ".join(sorted(known))
            # Only a plain word is quoted, because the rest of a password with a ? may follow here.
            given = f" {name}" if re.fullmatch("[a-z_]{1,32}", name) else ""
            raise InvalidInputError("url", f"unknown option{given}: expected one of {listed}")
        field, parse = known[name]
        if field in options:
            raise InvalidInputError(name, "is given twice")
        options[field] = parse(text, name)
    return options


def _number(text: str, field: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise InvalidInputError(field, "expected a whole number")
    return int(text)


def _secs(text: str, field: str) -> float:
    if not _SECS.fullmatch(text):
        raise InvalidInputError(field, "expected seconds")
    return float(text)


def _text(text: str, field: str) -> str:
    return require_str(text, field)


def _yes_no(text: str, field: str) -> bool:
    if text not in ("yes", "no"):
        raise InvalidInputError(field, "expected yes or no")
    return text == "yes"


def _names(text: str, field: str) -> tuple[str, ...]:
    return tuple(_text(name, field) for name in text.split(","))


if TYPE_CHECKING:
    _Option = tuple[str, Callable[[str, str], object]]

_MEMORY_OPTIONS: Final[dict[str, _Option]] = {
    "max_payload": ("max_payload_bytes", _number),
    "verify": ("verify", _yes_no),
    "require_ctx": ("require_ctx", _yes_no),
    "unknown_fields": ("unknown_fields", _text),
    "sweep_interval": ("sweep_interval_secs", _secs),
    "close_timeout": ("close_secs", _secs),
    "indexed_labels": ("indexed_labels", _names),
}
_REDIS_OPTIONS: Final[dict[str, _Option]] = {
    "namespace": ("namespace", _text),
    "deadline": ("deadline_secs", _secs),
    "close_timeout": ("close_secs", _secs),
    "acks": ("acks", _number),
    "max_connections": ("max_connections", _number),
    "max_payload": ("max_payload_bytes", _number),
    "verify": ("verify", _yes_no),
    "require_ctx": ("require_ctx", _yes_no),
    "unknown_fields": ("unknown_fields", _text),
    "protocol": ("protocol", _number),
    "indexed_labels": ("indexed_labels", _names),
}
_EMBEDDED_OPTIONS: Final[dict[str, _Option]] = {
    "fsync": ("fsync", _text),
    "start_timeout": ("start_secs", _secs),
    **{name: option for name, option in _REDIS_OPTIONS.items() if name != "acks"},
}
_SENTINEL_OPTIONS: Final[dict[str, _Option]] = {
    "sentinel_username": ("sentinel username", _text),
    "sentinel_password": ("sentinel password", _text),
}
_TLS_OPTIONS: Final[dict[str, _Option]] = {
    "tls_ca_file": ("ca_file", _text),
    "tls_cert_file": ("cert_file", _text),
    "tls_key_file": ("key_file", _text),
    "tls_verify": ("verify", _yes_no),
}
