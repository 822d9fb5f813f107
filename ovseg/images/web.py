"""Images by their address on the web: fetched within bounds, whatever the server says or does."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import PurePosixPath
from typing import IO, Any

from ovseg._version import __version__
from ovseg.errors import ImageError

MAX_BYTES = 200_000_000
_WAIT = 20.0  # seconds for a connection, and for each part of the answer
_PATIENCE = 120.0  # seconds for the whole answer: a server that drips must not hold a run for ever
_BLOCK = 1 << 16
_SCHEMES = ("http://", "https://")


def is_address(source: Any) -> bool:
    """Whether ``source`` is a text that begins with http:// or https://."""
    return isinstance(source, str) and source.lower().startswith(_SCHEMES)


def refuse_other_address(source: str | os.PathLike[str]) -> None:
    """Refuse a text of another scheme than http and https (file://, ftp://, s3://), and an address as a ``Path``.

    Raises:
        ImageError: says what to give instead.
    """
    text = os.fsdecode(source)
    scheme, separator, _ = text.partition("://")
    if isinstance(source, os.PathLike):
        if text.lower().startswith(("http:/", "https:/")) and not os.path.exists(text):
            raise ImageError(f"expected a file, got the address '{text}' as a path, which loses a slash; give text")
    elif separator and scheme.isalnum() and len(scheme) > 1 and not is_address(text) and not os.path.exists(text):
        raise ImageError(
            f"an address must begin with http:// or https://, got '{text}'; download it and give the file's path"
        )


def name_of(address: str) -> str:
    """What a file of the image would be called: the last part of the path, or the host where there is none.

    >>> name_of("https://a.org/photos/my%20cat.jpg?size=2")
    'my cat.jpg'
    """
    parts = urllib.parse.urlsplit(address)
    name = PurePosixPath(urllib.parse.unquote(parts.path)).name
    name = "".join(letter if letter.isprintable() and letter not in '\\:*?"<>|' else "_" for letter in name)
    return name if name.strip(". ") else (parts.hostname or "image")


def fetch(address: str, *, max_bytes: int = MAX_BYTES, patience: float = _PATIENCE) -> bytes:
    """The bytes behind an address; redirects are followed to http and https alone.

    Args:
        address: http:// or https://.
        max_bytes: an answer with more is refused, before or while it is read.
        patience: seconds for the whole answer.

    Raises:
        ImageError: no network, no such page, too slow, too large, or broken off; the address is named.
    """
    deadline = time.monotonic() + patience
    try:
        request = urllib.request.Request(_quoted(address), headers={"User-Agent": f"ovseg/{__version__}"})
        with _opener().open(request, timeout=min(_WAIT, patience)) as answer:
            return _read(answer, address, max_bytes=max_bytes, deadline=deadline)
    except urllib.error.HTTPError as error:
        raise ImageError(_refusal(error, address)) from error
    except TimeoutError as error:
        raise _too_slow(address) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _too_slow(address) from error
        raise ImageError(
            f"cannot reach '{address}' ({_told(error.reason)}); check the address and the network, or download the "
            "image and give the file's path"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a port or host that is none
        raise ImageError(f"cannot fetch '{address}' ({_told(error)}); check the address") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https; the base class takes ftp as well."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request that follows, or an ``HTTPError`` for an address of another scheme."""
        if not is_address(newurl):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of files, FTP and data: addresses, which ``urllib.request.urlopen`` has."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _quoted(address: str) -> str:
    """The address in ASCII: spaces and letters of other scripts are escaped, what is escaped stays."""
    parts = urllib.parse.urlsplit(address)
    if not parts.hostname:
        raise ValueError("it names no host")
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (urllib.parse.quote(part, safe="%/:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path or "/", query, ""))


def _read(answer: Any, address: str, *, max_bytes: int, deadline: float) -> bytes:
    told = answer.headers.get("Content-Length", "")
    expected = int(told) if told.isdecimal() else None
    if expected is not None and expected > max_bytes:
        raise _too_large(address, expected, max_bytes)
    blocks: list[bytes] = []
    size = 0
    while block := answer.read1(_BLOCK):  # what has come: ``read`` would wait for a whole block
        blocks.append(block)
        size += len(block)
        if size > max_bytes:
            raise _too_large(address, size, max_bytes)
        if time.monotonic() > deadline:
            raise TimeoutError
    if expected is not None and size < expected:
        raise ImageError(f"'{address}' broke off after {size} of {expected} bytes; try again")
    if not size:
        raise ImageError(f"expected an image, but '{address}' is empty (0 bytes); check the address")
    return b"".join(blocks)


def _refusal(error: urllib.error.HTTPError, address: str) -> str:
    if 300 <= error.code < 400:
        target = error.headers.get("Location", "nowhere") if error.headers else "nowhere"
        return (
            f"'{address}' leads to '{target}', which is no further http or https address; give the "
            "address of the image itself"
        )
    advice = "check the address" if error.code in {400, 404, 410} else "open it in a browser, and give a file"
    return f"'{address}' answers {error.code} ({error.reason or 'no reason given'}); {advice}"


def _too_large(address: str, size: int, limit: int) -> ImageError:
    return ImageError(
        f"'{address}' has {size} bytes or more, the limit is {limit}; download it and give the file's path"
    )


def _too_slow(address: str) -> ImageError:
    return ImageError(f"'{address}' took too long to answer; try again, or download it and give the file's path")


def _told(reason: Any) -> str:
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
