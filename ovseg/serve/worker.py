"""The one thread that the model works in, and the bounded queue before it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ovseg.serve.refusals import ClientGone, Refusal

AnswerT = TypeVar("AnswerT")


class Worker:
    """Calls one after the other in one thread, at most ``places`` of them waiting or at work.

    A call that is cancelled while it waits frees its place at once; one at work keeps its own to its end.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._taken = 0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ovseg-model")

    @property
    def taken(self) -> int:
        """Calls that wait or are at work."""
        return self._taken

    def check_room(self) -> None:
        """Refuse early, before a body is read, what ``submit`` would refuse.

        Raises:
            Refusal: all places are taken (429).
        """
        if self._taken >= self.places:
            raise Refusal(
                429, f"expected fewer than {self.places} requests at once, all places are taken; try again"
            )

    def submit(self, call: Callable[[], AnswerT]) -> Future[AnswerT]:
        """What ``call`` will give.

        Raises:
            Refusal: all places are taken (429), or the server stops (503).
        """
        with self._lock:
            self.check_room()
            self._taken += 1
        try:
            future = self._thread.submit(call)
        except RuntimeError as error:
            self._release()
            raise Refusal(503, "this server is stopping; ask another one") from error
        future.add_done_callback(self._release)
        return future

    def stop(self) -> None:
        """Take nothing more; what was accepted is still done."""
        self._thread.shutdown(wait=False)

    def close(self) -> None:
        """Finish what was accepted, and take nothing more."""
        self._thread.shutdown(wait=True)

    def _release(self, _: object = None) -> None:
        with self._lock:
            self._taken -= 1


async def wait_for(future: Future[AnswerT], *, gone: Callable[[], Awaitable[None]], seconds: float) -> AnswerT:
    """The answer of a call; the call is cancelled if it still waits when nobody waits for it.

    Args:
        future: from ``Worker.submit``.
        gone: returns when the client has left.
        seconds: how long to wait.

    Raises:
        ClientGone: the client left first.
        Refusal: it takes too long (503).
    """
    answer = asyncio.wrap_future(future)
    watcher = asyncio.ensure_future(gone())
    try:
        either: set[asyncio.Future[Any]] = {answer, watcher}
        done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer in done:
            return answer.result()
        if watcher in done:
            raise ClientGone
        raise Refusal(503, f"expected an answer within {seconds:g} seconds, it takes longer; ask less, or later")
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        future.cancel()
        answer.cancel()
