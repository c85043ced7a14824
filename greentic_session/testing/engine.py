"""A Docker engine, if one answers. Extra: ``[testing-containers]``."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from docker.errors import DockerException, ImageNotFound
from testcontainers.core.docker_client import DockerClient

from .servers import ServerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ENGINE_ERRORS", "docker_engine", "has_image", "pull"]

# Timeouts and lost connections raise `OSError`, because the SDK passes on the errors of `requests`.
ENGINE_ERRORS: Final[tuple[type[Exception], ...]] = (DockerException, OSError)

_ANSWER_SECS: Final = 10.0


@contextmanager
def docker_engine(*, timeout: float = _ANSWER_SECS) -> Generator[Any]:
    """Yield a ``docker.DockerClient`` of the engine that testcontainers would use.

    It is the engine of ``DOCKER_HOST``, of the current Docker context, or of the usual socket.

    :param timeout: limit in seconds for each answer. An engine that hangs counts as absent.
    :raises ServerNotFoundError: if no engine answers.
    """
    client = _connected(timeout)
    try:
        yield client
    finally:
        client.close()


def _connected(timeout: float) -> Any:  # Any: the SDK has no types
    with warnings.catch_warnings():
        # The SDK leaves the socket of a failed attempt to the garbage collector, which then warns.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return DockerClient(timeout=timeout).client
        except ENGINE_ERRORS as error:
            why = _first_line(error)
        gc.collect()
    raise ServerNotFoundError(f"no Docker engine answers: {why}")


def has_image(client: Any, image: str) -> bool:
    """Return whether the engine has an image."""
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def pull(image: str, *, timeout: float) -> None:
    """Pull an image from its registry.

    :param timeout: limit in seconds for the whole pull. A slower pull continues in the engine.
    :raises ServerNotFoundError: if the pull fails or is too slow.
    """
    failures: list[str] = []

    def fetch() -> None:
        try:
            with docker_engine() as client:
                client.images.pull(image)
        except ServerNotFoundError as error:
            failures.append(str(error))
        except ENGINE_ERRORS as error:
            failures.append(_first_line(error))

    # The SDK has no timeout for a registry. Only an abandoned thread sets a limit.
    fetching = threading.Thread(target=fetch, name=f"pull {image}", daemon=True)
    started_at = time.monotonic()
    fetching.start()
    fetching.join(timeout)
    if fetching.is_alive():
        waited = time.monotonic() - started_at
        raise ServerNotFoundError(f"{image} was not pulled within {waited:.0f} s")
    if failures:
        raise ServerNotFoundError(f"{image} cannot be pulled: {failures[0]}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
