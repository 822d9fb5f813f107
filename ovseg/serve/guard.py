"""What every request passes first: who asks, how many bytes come, and the counting of answers."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ovseg.serve.metrics import Metrics
from ovseg.serve.options import Access
from ovseg.serve.refusals import Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_AT_ONCE = 8  # largest bodies that may be on their way together
_POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"  # gradio needs these
)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", _POLICY),  # whatever the page's parts would load from the web, browsers do not
]
OPEN = frozenset({"/health"})  # says nothing but that the server lives


class Guard:
    """ASGI middleware; refuses before anything of the request is read, and stops reading where it is too much.

    Args:
        app: what comes after.
        access: who may ask.
        max_bytes: of one body.
        metrics: where answers are counted.
        places: the paths that are counted by name; the others are counted as "page".
    """

    def __init__(
        self, app: ASGIApp, *, access: Access, max_bytes: int, metrics: Metrics, places: Collection[str]
    ) -> None:
        self._app, self._access, self._max_bytes = app, access, max_bytes
        self._metrics, self._places = metrics, places
        self._coming = 0  # bytes of bodies whose requests are not yet answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "websocket":  # nothing here speaks it, and it would pass by all that follows
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, taken = time.perf_counter(), 499, 0  # 499: the client left before there was an answer

        async def counted_receive() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            taken, self._coming = taken + size, self._coming + size
            self._check_size(taken)
            if self._coming > _AT_ONCE * self._max_bytes:
                raise Refusal(429, "too many large requests are on their way at once; try again")
            return message

        async def marked_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, counted_receive, marked_send)
        except Refusal as refusal:
            if status == 499:  # else an answer has begun
                await _refuse(refusal, marked_send)
        finally:
            self._coming -= taken
            place = scope["path"] if scope["path"] in self._places else "page"
            self._metrics.count(place, status, time.perf_counter() - begun)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        name = re.sub(r":\d*$", "", headers.get("host", "")).lower()
        if self._access.hosts is not None and name not in self._access.hosts:
            raise Refusal(403, f"expected a call to {' or '.join(self._access.hosts)}, got one to '{name[:100]}'")
        if scope["method"] not in {"GET", "HEAD"} and headers.get("sec-fetch-site") == "cross-site":
            raise Refusal(403, "a page of another site may not send requests here")
        if scope["path"] not in OPEN and not self._knows(headers.get("authorization", "")):
            raise Refusal(401, "expected the token of this server; send the header 'Authorization: Bearer TOKEN'")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise Refusal(422, f"the header Content-Length must be a number of bytes, got '{length[:40]}'")
        self._check_size(int(length))

    def _knows(self, sent: str) -> bool:
        """Whether the token was sent: by Bearer, or as the password of Basic, which browsers ask their user for."""
        if self._access.token is None:
            return True
        kind, _, value = sent.partition(" ")
        if kind.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
            except ValueError:
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(value.strip().encode(), self._access.token.encode())

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise Refusal(413, f"the request has more than the limit of {self._max_bytes} bytes; send less")


async def _refuse(refusal: Refusal, send: Any) -> None:
    body = json.dumps({"error": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="ovseg", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
