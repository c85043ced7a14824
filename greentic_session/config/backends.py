"""Configurations of backends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

import msgspec

from .._validation import (
    Seconds,
    default_secs,
    require_bool,
    require_host,
    require_int,
    require_label_names,
    require_secs,
    require_str,
    timedeltas_to_secs,
)
from ..errors import InvalidInputError
from .urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT_CLOSE_SECS",
    "DEFAULT_MAX_PAYLOAD_BYTES",
    "DEFAULT_NAMESPACE",
    "Address",
    "EmbeddedConfig",
    "MemoryConfig",
    "OnUnknown",
    "RedisConfig",
    "SentinelConfig",
    "SessionBackendConfig",
    "TlsConfig",
    "check_on_unknown",
    "config_from_url",
    "with_options",
]

DEFAULT_CLOSE_SECS: Final = 1.0
DEFAULT_MAX_PAYLOAD_BYTES: Final = 1024 * 1024
DEFAULT_NAMESPACE: Final = "greentic:session"

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9._-]+(:[A-Za-z0-9._-]+)*")
_FSYNC: Final = ("always", "everysec", "no")

OnUnknown = Literal["keep", "refuse"]
"""What a write does with fields that the store's type does not know."""

Address = tuple[str, int]
"""Host and port."""


class MemoryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configures the in-process backend.

    Every field whose name ends in ``_secs`` also accepts a ``timedelta``, which becomes seconds.

    :ivar max_payload_bytes: limit on the size of one encoded session, in bytes.
    :ivar verify: as in :class:`AsyncSessionStore`.
    :ivar unknown_fields: as in :class:`AsyncSessionStore`.
    :ivar sweep_interval_secs: pause between two runs of the background sweeper, in seconds.
    :ivar close_secs: limit on the time that closing waits for running calls, in seconds. 0 does not
        wait.
    :ivar require_ctx: as in :class:`AsyncSessionStore`.
    :ivar indexed_labels: as in :class:`AsyncSessionStore`.
    """

    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    verify: bool = True
    unknown_fields: OnUnknown = "keep"
    sweep_interval_secs: Seconds = default_secs(1.0)
    close_secs: Seconds = default_secs(DEFAULT_CLOSE_SECS)
    require_ctx: bool = False
    indexed_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        timedeltas_to_secs(self, "sweep_interval_secs", "close_secs")

    def check(self) -> None:
        """Check every field.

        :raises InvalidInputError: a field is invalid. The error names the first one.
        """
        require_int(self.max_payload_bytes, "max_payload_bytes", 1)
        require_bool(self.verify, "verify")
        require_bool(self.require_ctx, "require_ctx")
        check_on_unknown(self.unknown_fields)
        require_secs(self.sweep_interval_secs, "sweep_interval_secs")
        require_secs(self.close_secs, "close_secs", allow_zero=True)
        require_label_names(self.indexed_labels)


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configures TLS: the check of the server's certificate, and the client certificate.

    :ivar ca_file: path of the trusted certificates. ``None`` trusts those of the system.
    :ivar cert_file: path of the client certificate, if the server requires one.
    :ivar key_file: path of the private key of the client certificate.
    :ivar verify: whether to check the server's certificate and host name.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True


class _HidesPassword(msgspec.Struct, frozen=True, kw_only=True):
    def __rich_repr__(self) -> list[tuple[str, Any]]:  # Any: as msgspec declares it
        """Return the fields for pretty printers, with the password hidden."""
        return [
            (name, "***" if name == "password" and value is not None else value)
            for name in self.__struct_fields__
            for value in (getattr(self, name),)
        ]

    def __repr__(self) -> str:
        """Return the fields with the password hidden."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


class SentinelConfig(_HidesPassword, frozen=True, kw_only=True):
    """Configures the sentinels that name the master. ``repr`` hides the password.

    * List every sentinel, each by its own address. A store asks all of them. As soon as a majority
      of the list has answered, it takes the answer with the highest config epoch.
    * While the store is open, it accepts a lower config epoch than an earlier one only if all
      sentinels of the list name one master, and the earlier master is a replica or unreachable.
      Epochs restart at 0 if a master is removed from all sentinels and added again.
    * If no majority answers, the store accepts an answer with the highest epoch seen so far, or a
      higher one. If it has not reached any sentinel before, it accepts any answer. Behind a
      partition, that may be a deposed master: see ``acks`` of :class:`RedisConfig`.

    :ivar addresses: addresses of the sentinels.
    :ivar master_name: name of the group of servers in the configuration of the sentinels.
    :ivar username: ACL user on the sentinels. ``None`` is their default user.
    :ivar password: password of that user on the sentinels.
    """

    addresses: tuple[Address, ...]
    master_name: str
    username: str | None = None
    password: str | None = None


class RedisConfig(_HidesPassword, frozen=True, kw_only=True):
    """Configures the Redis or Valkey backend: one server, a master behind Sentinel, or a cluster.

    ``repr`` hides the password. A deposed master behind a partition accepts writes until it learns
    of its successor.

    * With ``acks``, such a write raises :class:`DurabilityError` or is retried on the successor,
      unless replicas are on the same side of the partition.
    * Set ``min-replicas-to-write`` on all servers to at least ``acks``. Then a master without
      replicas refuses writes after ``min-replicas-max-lag`` seconds, and the store looks for the
      successor.
    * With several replicas, a failover may promote one that has not confirmed a write. If no
      confirmed write may be lost, set ``acks`` to the number of replicas.

    :ivar host: host name or address, unused with ``unix_path``, ``sentinel`` or ``cluster``.
    :ivar port: TCP port.
    :ivar unix_path: path of a unix socket, instead of host and port.
    :ivar sentinel: the sentinels that name the server, instead of host and port.
    :ivar cluster: addresses of some servers of a cluster, instead of host and port.
    :ivar db: number of the logical database. A cluster only has number 0.
    :ivar username: ACL user. ``None`` is the server's default user.
    :ivar password: password of that user.
    :ivar tls: the TLS configuration. ``None`` uses plain TCP.
    :ivar namespace: prefix of every key on the server: words of ``A-Z a-z 0-9 . _ -`` joined by
        ``:``. On one server, no namespace should be a prefix of another.
    :ivar deadline_secs: overall limit on one call including retries, in seconds.
    :ivar close_secs: limit on the time that closing waits for running calls, in seconds. 0 does not
        wait.
    :ivar acks: number of replicas that must confirm each write before the call returns. With 0, the
        call waits for none, and a failover may lose acknowledged writes.

        * A result that rests on an earlier write is confirmed too, such as a known event or the
          removal of an absent session. So repeat a call that raised :class:`DurabilityError` until
          it no longer raises that error.
        * A refusal, such as :class:`CasConflictError` or :class:`SessionExistsError`, is not
          confirmed, because its caller wrote nothing. After a :class:`DurabilityError` of
          ``create`` or ``update_cas``, confirm the session with ``touch``.
        * The grant of a lease is confirmed. A renewal and a release are not, so a holder can
          continue while all replicas are unreachable. After a failover, the new master may have an
          earlier end of the lease. Then another worker may take over before the holder expects it.
          The store refuses writes with the fencing token of the stale holder.
    :ivar max_connections: maximum number of open connections to one server for requests and replies
        of up to 64 KiB. Further calls wait for one. Larger ones have up to two more, with
        ``max_connections=1`` one more. With ``acks``, writes have as many again. Connections that
        are being replaced, and the connection for notifications, are not counted.
    :ivar max_payload_bytes: limit on the size of one encoded session, in bytes.
    :ivar verify: as in :class:`AsyncSessionStore`.
    :ivar unknown_fields: as in :class:`AsyncSessionStore`.
    :ivar protocol: version of RESP, 2 or 3. The results are the same.
    :ivar require_ctx: as in :class:`AsyncSessionStore`.
    :ivar indexed_labels: as in :class:`AsyncSessionStore`.
    """

    host: str = "localhost"
    port: int = 6379
    unix_path: str | None = None
    sentinel: SentinelConfig | None = None
    cluster: tuple[Address, ...] = ()
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: TlsConfig | None = None
    namespace: str = DEFAULT_NAMESPACE
    deadline_secs: Seconds = default_secs(2.0)
    close_secs: Seconds = default_secs(DEFAULT_CLOSE_SECS)
    acks: int = 0
    max_connections: int = 32
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    verify: bool = True
    unknown_fields: OnUnknown = "keep"
    protocol: int = 3
    require_ctx: bool = False
    indexed_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        timedeltas_to_secs(self, "deadline_secs", "close_secs")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the configuration in a URL.

        :param url: a URL as :func:`greentic_session.config.urls.parse_url` describes it.
        :raises InvalidInputError: the URL or an option is invalid. The error names the option.
        """
        config = config_from_url(url)
        if not isinstance(config, cls):
            raise InvalidInputError("url", "is not the URL of a Redis or Valkey server")
        return config

    def check(self) -> None:
        """Check every field.

        :raises InvalidInputError: a field is invalid. The error names the first one.
        """
        require_host(self.host, "host")
        require_int(self.port, "port", 1, 65_535)
        for name in ("unix_path", "username", "password"):
            if getattr(self, name) is not None:
                require_str(getattr(self, name), name)
        if self.tls is not None:
            _check_tls(self.tls)
        require_int(self.db, "db", 0)
        self._check_address()
        require_str(self.namespace, "namespace")
        if len(self.namespace) > 128 or not _NAMESPACE.fullmatch(self.namespace):
            raise InvalidInputError(
                "namespace", "expected 1 to 128 characters, words of A-Z a-z 0-9 . _ - joined by :"
            )
        require_secs(self.deadline_secs, "deadline_secs")
        require_secs(self.close_secs, "close_secs", allow_zero=True)
        require_int(self.acks, "acks", 0, 100)
        require_int(self.max_connections, "max_connections", 1)
        require_int(self.max_payload_bytes, "max_payload_bytes", 1)
        require_bool(self.verify, "verify")
        require_bool(self.require_ctx, "require_ctx")
        check_on_unknown(self.unknown_fields)
        require_int(self.protocol, "protocol", 2, 3)
        require_label_names(self.indexed_labels)

    def _check_address(self) -> None:
        sentinel = cast("object", self.sentinel)
        if sentinel is not None:
            if not isinstance(sentinel, SentinelConfig):
                found = type(sentinel).__name__
                raise InvalidInputError("sentinel", f"expected SentinelConfig, got {found}")
            require_str(sentinel.master_name, "sentinel.master_name")
            for name in ("username", "password"):
                if getattr(sentinel, name) is not None:
                    require_str(getattr(sentinel, name), f"sentinel.{name}")
            _check_addresses(sentinel.addresses, "sentinel.addresses")
            if not sentinel.addresses:
                raise InvalidInputError("sentinel.addresses", "expected at least one")
        _check_addresses(self.cluster, "cluster")
        places = (self.unix_path, sentinel, self.cluster or None)
        if sum(place is not None for place in places) > 1:
            raise InvalidInputError("unix_path, sentinel, cluster", "expected at most one of them")
        if self.cluster and self.db:
            raise InvalidInputError("db", "a cluster only has number 0")


class EmbeddedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configures a private Valkey server in a local folder.

    The other fields are as in :class:`RedisConfig`. The first process that opens the folder
    determines ``fsync``.

    :ivar path: absolute path of the folder. It is created if only the folder itself is missing.
    :ivar fsync: when a write reaches the disk.

        * ``always``: before it is acknowledged.
        * ``everysec``: within a second or two.
        * ``no``: when the operating system writes it.

        ``always`` and ``no`` lose no acknowledged write when a process is killed. ``always`` loses
        none when the power fails.
    :ivar start_secs: limit on the start of the server when the store is entered, in seconds. It
        includes the time that the server takes to load its file.
    """

    path: str
    fsync: Literal["always", "everysec", "no"] = "always"
    start_secs: Seconds = default_secs(20.0)
    namespace: str = DEFAULT_NAMESPACE
    deadline_secs: Seconds = default_secs(2.0)
    close_secs: Seconds = default_secs(DEFAULT_CLOSE_SECS)
    max_connections: int = 32
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    verify: bool = True
    unknown_fields: OnUnknown = "keep"
    protocol: int = 3
    require_ctx: bool = False
    indexed_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        timedeltas_to_secs(self, "start_secs", "deadline_secs", "close_secs")

    def check(self) -> None:
        """Check every field without I/O.

        :raises InvalidInputError: a field is invalid. The error names the first one.
        """
        if not require_str(self.path, "path").startswith("/") or not self.path.strip("/"):
            raise InvalidInputError("path", "expected the absolute path of a folder")
        if self.fsync not in _FSYNC:
            raise InvalidInputError("fsync", f"expected one of {', '.join(_FSYNC)}")
        require_secs(self.start_secs, "start_secs")
        self.server(self.path).check()

    def server(self, unix_path: str) -> RedisConfig:
        """Return the configuration for a client of the folder's server.

        :param unix_path: path of the server's socket.
        """
        names = RedisConfig.__struct_fields__
        same = {name: getattr(self, name) for name in self.__struct_fields__ if name in names}
        return RedisConfig(unix_path=unix_path, **same)


SessionBackendConfig = MemoryConfig | RedisConfig | EmbeddedConfig
"""The configuration of any backend."""


def config_from_url(url: str) -> SessionBackendConfig:
    """Return the checked configuration in a URL.

    :param url: a URL as :func:`greentic_session.config.urls.parse_url` describes it.
    :raises InvalidInputError: the URL or an option is invalid. The error names the option.
    """
    backend, fields = parse_url(url)
    if "tls" in fields:
        fields["tls"] = TlsConfig(**fields["tls"])
    if "sentinel" in fields:
        fields["sentinel"] = SentinelConfig(**fields["sentinel"])
    config: SessionBackendConfig = _CONFIGS[backend](**fields)
    config.check()
    return config


def with_options(
    config: SessionBackendConfig,
    *,
    require_ctx: bool | None = None,
    unknown_fields: OnUnknown | None = None,
    indexed_labels: Sequence[str] | None = None,
) -> SessionBackendConfig:
    """Return a configuration with other options. ``None`` keeps the option.

    :raises InvalidInputError: a name of a label is invalid.
    """
    changes: dict[str, object] = {}
    if require_ctx is not None:
        changes["require_ctx"] = require_ctx
    if unknown_fields is not None:
        changes["unknown_fields"] = unknown_fields
    if indexed_labels is not None:
        changes["indexed_labels"] = require_label_names(indexed_labels)
    if not isinstance(cast("object", config), SessionBackendConfig):
        return config  # the caller names the error
    return msgspec.structs.replace(config, **changes)


_CONFIGS: Final = {"memory": MemoryConfig, "redis": RedisConfig, "embedded": EmbeddedConfig}


def check_on_unknown(value: object) -> None:
    """Check the option ``unknown_fields``.

    :raises InvalidInputError: it is not a known word.
    """
    if value not in ("keep", "refuse"):
        raise InvalidInputError("unknown_fields", "expected 'keep' or 'refuse'")


def _check_addresses(addresses: object, field: str) -> None:
    if not isinstance(addresses, tuple):
        raise InvalidInputError(field, "expected a tuple of (host, port)")
    for address in cast("tuple[object, ...]", addresses):
        if not isinstance(address, tuple) or len(cast("tuple[object, ...]", address)) != 2:
            raise InvalidInputError(field, "expected a tuple of (host, port)")
        host, port = cast("tuple[object, object]", address)
        require_host(host, field)
        require_int(port, field, 1, 65_535)


def _check_tls(tls: object) -> None:
    if not isinstance(tls, TlsConfig):
        raise InvalidInputError("tls", f"expected TlsConfig, got {type(tls).__name__}")
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, name)
        if path is not None and not Path(require_str(path, name)).is_file():
            raise InvalidInputError(name, "is not a file")
    require_bool(tls.verify, "verify")
