"""Why a request is not answered: a status of HTTP and one sentence."""

from __future__ import annotations

from ovseg.errors import ImageError, MissingDependencyError, ModelError, OvsegError, TooLargeError
from ovseg.escape import one_line

_MOST = 500  # letters of a sentence


class Refusal(OvsegError):
    """A request that is refused, with its status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClientGone(Exception):
    """Nobody is there any more to take the answer."""


def status_of(error: OvsegError) -> int:
    """The status of HTTP that tells a client what is wrong: its photo, its request, or this server."""
    if isinstance(error, Refusal):
        return error.status
    if isinstance(error, ImageError):
        return 413 if isinstance(error, TooLargeError) else 415
    return 503 if isinstance(error, ModelError | MissingDependencyError) else 422


def sentence(error: object) -> str:
    """The message on one line, harmless and not too long."""
    line = one_line(" ".join(str(error).split()))
    return line if len(line) <= _MOST else f"{line[:_MOST]}..."
