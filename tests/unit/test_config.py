"""Tests of URLs and configurations, and of the stores that they create."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from greentic_session import (
    InMemorySessionStore,
    InvalidInputError,
    MemoryConfig,
    RedisConfig,
    RedisSessionStore,
    SentinelConfig,
    SessionKey,
    SystemClock,
    TlsConfig,
    create_session_store,
    from_env,
)
from greentic_session.config.backends import config_from_url

SECRET = "correct-horse-battery"

TLS = TlsConfig()
GOOD: list[tuple[str, MemoryConfig | RedisConfig]] = [
    ("memory://", MemoryConfig()),
    ("memory://?max_payload=10", MemoryConfig(max_payload_bytes=10)),
    ("memory://?sweep_interval=0.5", MemoryConfig(sweep_interval_secs=0.5)),
    ("memory://?close_timeout=0.5", MemoryConfig(close_secs=0.5)),
    ("redis://h?close_timeout=0", RedisConfig(host="h", close_secs=0)),
    ("redis://localhost", RedisConfig()),
    ("valkey://localhost", RedisConfig()),
    ("redis://h:7000/3", RedisConfig(host="h", port=7000, db=3)),
    ("redis://H:/", RedisConfig(host="h")),
    ("redis://u:a,b@h", RedisConfig(host="h", username="u", password="a,b")),
    (
        "redis+cluster://u:a%2Cb@h1,h2",
        RedisConfig(cluster=(("h1", 6379), ("h2", 6379)), username="u", password="a,b"),
    ),
    ("redis://h?deadline=1.5e0", RedisConfig(host="h", deadline_secs=1.5)),
    ("redis://[::1]:7000/", RedisConfig(host="::1", port=7000)),
    ("redis://u:p%40ss@h", RedisConfig(host="h", username="u", password="p@ss")),
    ("redis://:p%3Aw@h", RedisConfig(host="h", password="p:w")),
    ("rediss://h", RedisConfig(host="h", tls=TLS)),
    ("valkeys://h?tls_verify=no", RedisConfig(host="h", tls=TlsConfig(verify=False))),
    (f"rediss://h?tls_ca_file={__file__}", RedisConfig(host="h", tls=TlsConfig(ca_file=__file__))),
    ("memory://?verify=no", MemoryConfig(verify=False)),
    ("memory://?require_ctx=yes", MemoryConfig(require_ctx=True)),
    ("redis://h?require_ctx=yes", RedisConfig(host="h", require_ctx=True)),
    ("unix:///run/valkey.sock", RedisConfig(unix_path="/run/valkey.sock")),
    (
        "unix://:pw@/run/a%20b.sock?db=2",
        RedisConfig(unix_path="/run/a b.sock", db=2, password="pw"),
    ),
    (
        "redis+cluster://u:p%40ss@h1:7000,h2,[::1]:7001?acks=2",
        RedisConfig(
            cluster=(("h1", 7000), ("h2", 6379), ("::1", 7001)),
            username="u",
            password="p@ss",
            acks=2,
        ),
    ),
    ("valkeys+cluster://h/0", RedisConfig(cluster=(("h", 6379),), tls=TLS)),
    (
        "valkey+sentinel://u:p@h1,h2:7000/my%20master/3",
        RedisConfig(
            sentinel=SentinelConfig(
                addresses=(("h1", 26379), ("h2", 7000)), master_name="my master"
            ),
            username="u",
            password="p",
            db=3,
        ),
    ),
    (
        "rediss+sentinel://h1/name?sentinel_username=s&sentinel_password=t&tls_verify=no",
        RedisConfig(
            sentinel=SentinelConfig(
                addresses=(("h1", 26379),), master_name="name", username="s", password="t"
            ),
            tls=TlsConfig(verify=False),
        ),
    ),
    (
        "redis://h?namespace=a:b&deadline=0.5&max_connections=3&max_payload=9&protocol=2",
        RedisConfig(
            host="h",
            namespace="a:b",
            deadline_secs=0.5,
            max_connections=3,
            max_payload_bytes=9,
            protocol=2,
        ),
    ),
]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "given", "is_required"),
    [
        ("memory://", None, False),
        ("memory://", True, True),
        ("memory://?require_ctx=yes", None, True),
        ("memory://?require_ctx=yes", False, False),
    ],
)
async def test_an_argument_has_precedence_over_the_url(
    url: str, given: bool | None, is_required: bool
) -> None:
    for source in (url, config_from_url(url)):
        async with create_session_store(source, require_ctx=given) as store:
            if not is_required:
                assert await store.get(SessionKey("key")) is None
                continue
            with pytest.raises(InvalidInputError) as caught:
                await store.get(SessionKey("key"))
            assert caught.value.field == "ctx"


@pytest.mark.parametrize(("url", "config"), GOOD, ids=[url for url, _ in GOOD])
def test_a_url_stands_for_a_configuration(url: str, config: MemoryConfig | RedisConfig) -> None:
    assert config_from_url(url) == config
    expected = InMemorySessionStore if isinstance(config, MemoryConfig) else RedisSessionStore
    assert isinstance(create_session_store(url), expected)
    assert isinstance(create_session_store(config), expected)


BAD = [
    ("", "url", "unknown scheme: expected one of memory://, redis://"),
    ("localhost:6379", "url", "unknown scheme"),
    ("mysql://h", "url", "unknown scheme"),
    ("memory:", "url", "no // after the scheme: write memory://"),
    ("embedded:/tmp/x", "url", "no // after the scheme: write embedded:///path: three slashes"),
    ("embedded:x", "url", "no // after the scheme: write embedded:///path: three slashes"),
    ("Redis+Cluster:h1:7000", "url", "no // after the scheme: write redis+cluster://"),
    ("embedded://tmp/x", "url", "expected embedded:///path/of/a/folder"),
    ("memory://host", "url", "no host"),
    ("memory:///path", "url", "no host and no path"),
    (
        "memory://?namespace=x",
        "url",
        "unknown option namespace: expected one of close_timeout, indexed_labels, max_payload, ",
    ),
    ("redis://", "url", "expected a host"),
    ("redis://h?colour=red", "url", "unknown option colour: expected one of acks, close_"),
    ("redis://h?acks=-1", "acks", "whole number"),
    ("redis://h?acks=101", "acks", "from 0 to 100"),
    ("redis://h1,h2", "url", "use +sentinel:// or +cluster://"),
    ("redis+cluster://", "url", "expected a host after ://, or several joined by commas"),
    ("redis+cluster://h1,,h2", "url", "expected a host"),
    ("redis+cluster://h1:70000", "url", "cannot be parsed"),
    ("redis+cluster://h1/1", "db", "a cluster only has number 0"),
    ("redis+cluster://h1?sentinel_password=x", "url", "unknown option sentinel_password"),
    ("redis+sentinel://h1:1,h2:2", "url", "expected redis+sentinel://host,host/master_name"),
    ("redis+sentinel://h1/", "url", "master_name"),
    ("redis+sentinel://h1/name/one", "db", "whole number"),
    ("redis+sentinel://h1/name?sentinel_password=", "sentinel_password", "not empty"),
    ("unix+cluster:///run/socket", "url", "unknown scheme"),
    ("redis://h?tls_verify=no", "url", "unknown option tls_verify"),
    ("rediss://h?tls_verify=maybe", "tls_verify", "yes or no"),
    ("rediss://h?tls_ca_file=/no/such", "ca_file", "is not a file"),
    ("redis://h?deadline=1e17", "deadline_secs", "at most"),
    ("redis://:%ff@h", "url", "cannot be parsed"),
    ("redis://h%00", "host", "NUL"),
    ("redis://h%20x", "host", "white space"),
    ("redis://h\nx", "host", "control"),
    ("redis://h\u3000x", "host", "white space"),
    ("redis+cluster://h1,h%7F2", "host", "control"),
    ("redis+sentinel://h1, h2/name", "host", "white space"),
    ("redis://[::1]x:5", "url", "cannot be parsed"),
    ("redis://[]:5", "url", "expected a host"),
    ("redis://[::1", "url", "cannot be parsed"),
    ("redis://::1", "url", "cannot be parsed"),
    ("redis://h:\uff11", "url", "cannot be parsed"),
    ("redis://h:-1", "url", "cannot be parsed"),
    ("redis://h:" + "9" * 5000, "url", "cannot be parsed"),
    ("redis+cluster://u:p@h1,u:p@h2", "url", "%2C for a comma in a password"),
    ("redis+sentinel://u:p@h1,u:p@h2/name", "url", "%2C for a comma in a password"),
    ("redis://u:p@h1,u:p@h2", "url", "%2C for a comma in a password"),
    ("redis://h?deadline=1_0", "deadline", "seconds"),
    ("redis://h?deadline=%201", "deadline", "seconds"),
    ("redis://h?deadline=\u0661", "deadline", "seconds"),
    ("redis://h?acks=\u0661", "acks", "whole number"),
    ("redis://h?acks=1_0", "acks", "whole number"),
    ("redis://h:99999", "url", "cannot be parsed"),
    ("redis://h:0", "port", "from 1 to 65535"),
    ("redis://h/one", "db", "whole number"),
    ("redis://h/-1", "db", "whole number"),
    ("redis://h?deadline=soon", "deadline", "seconds"),
    ("redis://h?deadline=0", "deadline_secs", "above 0"),
    ("redis://h?close_timeout=86401", "close_secs", "from 0"),
    ("redis://h?deadline=nan", "deadline_secs", "above 0"),
    ("redis://h?deadline=inf", "deadline_secs", "above 0"),
    ("redis://h?deadline=1&deadline=2", "deadline", "twice"),
    ("redis://h?max_connections=0", "max_connections", "at least 1"),
    ("redis://h?max_connections=1e3", "max_connections", "whole number"),
    ("redis://h?protocol=4", "protocol", "from 2 to 3"),
    ("redis://h?namespace=", "namespace", "not empty"),
    ("redis://h?namespace=a{b}", "namespace", "A-Z"),
    ("redis://h?namespace=a::b", "namespace", "A-Z"),
    ("redis://h#frag", "url", "%23"),
    ("unix://", "url", "unix:///path"),
    ("unix://host/path", "url", "unix:///path"),
    ("embedded://", "url", "embedded:///path"),
    ("embedded:///", "url", "embedded:///path"),
    ("embedded://host/path", "url", "embedded:///path"),
    ("embedded:///path?acks=1", "url", "unknown option acks: expected one of close_timeout, dead"),
    ("embedded:///path?fsync=never", "fsync", "always, everysec, no"),
    ("embedded:///path?start_timeout=0", "start_secs", "above 0"),
    ("embedded:///path?namespace=a{b}", "namespace", "A-Z"),
    ("embedded:///pa%00th", "path", "NUL"),
]


@pytest.mark.parametrize(("url", "field", "reason"), BAD, ids=[url for url, *_ in BAD])
def test_a_bad_url_is_refused_by_name(url: str, field: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        create_session_store(url)
    assert caught.value.field == field
    assert reason in caught.value.reason


@pytest.mark.parametrize("not_a_url", [None, 5, b"redis://h", object()])
def test_what_is_no_url_and_no_configuration_is_refused(not_a_url: Any) -> None:
    with pytest.raises(InvalidInputError):
        create_session_store(not_a_url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@h:bad",
        f"redis://user:{SECRET}@h?colour=red",
        f"redis://user:{SECRET}@h/db",
        f"mysql://user:{SECRET}@h",
        f"redis://user:1?{SECRET}@h/0",
        f"redis://user:{SECRET}@h#x",
        f"redis://user:{SECRET}/@h",
        f"redis://user:{SECRET}%ff@h",
        f"redis://[{SECRET}",
        f"redis://h?deadline={SECRET}",
        f"redis+cluster://user:{SECRET}@h1,user:{SECRET}@h2",
        f"redis+cluster://user:{SECRET}@h1:bad,h2",
        f"redis+sentinel://user:{SECRET}@h1,h2",
        f"redis+sentinel://h1/name?sentinel_password={SECRET}&sentinel_password={SECRET}",
    ],
)
def test_a_password_appears_in_no_error(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        create_session_store(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r} {error.__cause__!r}"
        error = error.__context__


def test_a_sentinels_password_appears_in_no_repr() -> None:
    config = RedisConfig.from_url(f"redis+sentinel://h/name?sentinel_password={SECRET}")
    assert config.sentinel is not None
    assert config.sentinel.password == SECRET
    assert SECRET not in repr(config)
    assert "name" in repr(config)


SENTINEL = SentinelConfig(addresses=(("h", 26379),), master_name="mymaster")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sentinel": SENTINEL, "cluster": (("h", 1),)}, "unix_path, sentinel, cluster"),
        ({"sentinel": SENTINEL, "unix_path": "/run/socket"}, "unix_path, sentinel, cluster"),
        ({"sentinel": "h"}, "sentinel"),
        ({"sentinel": msgspec.structs.replace(SENTINEL, addresses=())}, "sentinel.addresses"),
        ({"sentinel": msgspec.structs.replace(SENTINEL, master_name="")}, "sentinel.master_name"),
        ({"sentinel": msgspec.structs.replace(SENTINEL, password="")}, "sentinel.password"),
        ({"cluster": [("h", 1)]}, "cluster"),
        ({"cluster": (("h", 0),)}, "cluster"),
        ({"cluster": (("", 1),)}, "cluster"),
        ({"cluster": ("h:1",)}, "cluster"),
        ({"cluster": (("h x", 1),)}, "cluster"),
        ({"host": "h\n"}, "host"),
        ({"cluster": (("h", 1),), "db": 1}, "db"),
        ({"acks": True}, "acks"),
    ],
)
def test_a_bad_place_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        create_session_store(RedisConfig(**fields))
    assert caught.value.field == field


def test_a_password_appears_in_no_repr() -> None:
    config = RedisConfig.from_url(f"redis://user:{SECRET}@h")
    assert config.password == SECRET
    assert SECRET not in repr(config)
    assert SECRET not in str(config)
    assert SECRET not in str(config.__rich_repr__())
    assert "user" in repr(config)
    assert SECRET not in repr(create_session_store(config))


def test_from_url_of_another_backend_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="url"):
        RedisConfig.from_url("memory://")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (MemoryConfig(max_payload_bytes=0), "max_payload_bytes"),
        (MemoryConfig(sweep_interval_secs=float("nan")), "sweep_interval_secs"),
        (RedisConfig(port=0), "port"),
        (RedisConfig(host=""), "host"),
        (RedisConfig(deadline_secs=-1), "deadline_secs"),
        (MemoryConfig(close_secs=-1), "close_secs"),
        (RedisConfig(namespace="a b"), "namespace"),
        (RedisConfig(password=""), "password"),
        (RedisConfig(password="\ud800"), "password"),
        (RedisConfig(tls=True), "tls"),  # type: ignore[arg-type]
        (RedisConfig(verify=1), "verify"),  # type: ignore[arg-type]
        (MemoryConfig(require_ctx=1), "require_ctx"),  # type: ignore[arg-type]
        (RedisConfig(require_ctx=None), "require_ctx"),  # type: ignore[arg-type]
        (msgspec.structs.replace(RedisConfig(), db=True), "db"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(
    config: MemoryConfig | RedisConfig, field: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        create_session_store(config)
    assert caught.value.field == field


def test_a_server_takes_no_clock() -> None:
    with pytest.raises(InvalidInputError, match="clock"):
        create_session_store("redis://localhost", clock=SystemClock())


def test_a_context_type_that_the_codec_cannot_handle_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="context_type"):
        create_session_store("memory://", context_type=dict[bytes | str, int] | list[int] | set)


@pytest.mark.parametrize(
    ("environ", "backend"),
    [
        ({}, "memory"),
        ({"GREENTIC_SESSION_URL": "", "REDIS_URL": ""}, "memory"),
        ({"REDIS_URL": "redis://h"}, "redis"),
        ({"GREENTIC_SESSION_URL": "memory://", "REDIS_URL": "redis://h"}, "memory"),
        ({"GREENTIC_SESSION_URL": "redis://h"}, "redis"),
    ],
)
def test_from_env_opens_the_backend_of_the_url(environ: dict[str, str], backend: str) -> None:
    assert from_env(environ=environ).statistics().backend == backend


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "memory:// (no variable is set)"),
        ({"GREENTIC_SESSION_URL": "memory://?max_payload=10"}, "memory://"),
        ({"REDIS_URL": f"redis://u:{SECRET}@H:7000/3"}, "REDIS_URL: redis://h:7000/3"),
        (
            {"GREENTIC_SESSION_URL": f"rediss://:{SECRET}@h"},
            "GREENTIC_SESSION_URL: rediss://h:6379",
        ),
        ({"REDIS_URL": f"unix://u:{SECRET}@/run/r.sock?db=2"}, "REDIS_URL: unix:///run/r.sock"),
        ({"REDIS_URL": "embedded:///var/x?fsync=no"}, "REDIS_URL: embedded:///var/x"),
        (
            {"REDIS_URL": f"valkey+cluster://u:{SECRET}@a:1,[::1]:2"},
            "REDIS_URL: valkey+cluster://a:1,[::1]:2",
        ),
        (
            {"REDIS_URL": f"redis+sentinel://:{SECRET}@a,b/main/1?sentinel_password={SECRET}"},
            "REDIS_URL: redis+sentinel://a:26379,b:26379",
        ),
        # A slash in the password (instead of %2F) turns its rest into a master's name.
        ({"REDIS_URL": f"redis+sentinel://u:12/{SECRET}@h"}, "REDIS_URL: redis+sentinel://u:12"),
    ],
)
def test_from_env_logs_which_url_it_took_without_secrets(
    environ: dict[str, str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "greentic_session"):
        from_env(environ=environ)
    [record] = caplog.records
    assert record.levelname == "INFO"
    assert told in record.getMessage()
    assert SECRET not in record.getMessage()


@pytest.mark.parametrize(
    "environ",
    [{}, {"REDIS_URL": ""}, {"REDIS_URL": "memory://"}, {"GREENTIC_SESSION_URL": "MEMORY://"}],
)
def test_from_env_refuses_memory_if_told_to(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="memory") as caught:
        from_env(environ=environ, allow_memory=False)
    assert caught.value.field == (next((k for k in environ if environ[k]), "GREENTIC_SESSION_URL"))
    server = from_env(environ={"REDIS_URL": "redis://h"}, allow_memory=False)
    assert server.statistics().backend == "redis"


def test_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GREENTIC_SESSION_URL", raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://h")
    assert from_env().statistics().backend == "redis"


def test_a_tcp_url_connects(tcp_server_url: str) -> None:
    async def ping() -> bool:
        async with create_session_store(tcp_server_url) as store:
            return await store.ping()

    assert asyncio.run(ping())
