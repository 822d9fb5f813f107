"""The body of a request: a form with a file, or JSON, as fields and the bytes of a file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ovseg.files import parse_json
from ovseg.serve.refusals import Refusal
from ovseg.vocabulary.labels import split_labels

if TYPE_CHECKING:
    from starlette.requests import Request

_MOST_FIELDS = 1000
_ADVICE = 'send an object such as {"labels": ["cat"]}'


async def read_body(request: Request, *, max_bytes: int) -> tuple[dict[str, Any], bytes | None]:
    """The fields of a request, and its file if a form brings one.

    Raises:
        Refusal: neither a form nor JSON (415), or one that cannot be read (422).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, max_bytes=max_bytes)
    if kind == "application/json":
        return read_object(await request.body()), None
    raise Refusal(415, f"expected multipart/form-data or application/json, got '{kind[:100]}'; send one of these")


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Refusal: it is none (422).
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(422, f"the body is not UTF-8; {_ADVICE}") from error
    value = _parsed(text, "the body")
    if not isinstance(value, dict):
        raise Refusal(422, f"the body must be a JSON object, got {type(value).__name__}; {_ADVICE}")
    return value


def from_base64(text: str, *, where: str) -> bytes:
    """The bytes that a text in base64 stands for, with or without ``data:...;base64,`` before it.

    Raises:
        Refusal: it is no base64 (422).
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, f"'{where}' must be the file in base64, got something else; encode it again") from error


async def _read_form(request: Request, *, max_bytes: int) -> tuple[dict[str, Any], bytes | None]:
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=1, max_fields=_MOST_FIELDS, max_part_size=max_bytes
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        told = str(getattr(error, "message", "it has no boundary"))
        raise Refusal(
            422, f"the form cannot be read ({told[:100]}); send one part 'file' and fields of text"
        ) from error
    try:
        file: bytes | None = None
        texts: dict[str, list[str]] = {}
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                texts.setdefault(name, []).append(value)
            elif name == "file":
                file = await value.read()
            else:
                raise Refusal(
                    422, f"expected the photo in the part 'file', got a file in '{name[:100]}'; rename it"
                )
    finally:
        await form.close()
    return {name: _field(name, values) for name, values in texts.items()}, file


def _field(name: str, values: list[str]) -> Any:
    """The value of a field of text: JSON where it begins as such, else as a person would write it."""
    if len(values) == 1 and values[0].lstrip()[:1] in {"[", "{"}:
        return _parsed(values[0], f"the field '{name[:100]}'")
    if name in _WRITTEN:
        return _WRITTEN[name](values)
    if len(values) > 1:
        raise Refusal(422, f"the field '{name[:100]}' must come once, got it {len(values)} times")
    return values[0]


def _words(values: list[str]) -> list[str]:
    return [label for value in values for label in split_labels(value)]


def _words_or(*kept: str) -> Callable[[list[str]], Any]:
    """Words, but for these, which stand for themselves."""
    return lambda values: values[0].lower() if values[0].lower() in kept else _words(values)


def _points(values: list[str]) -> list[list[str]]:
    return [value.split(",") for value in values]


_WRITTEN: dict[str, Callable[[list[str]], Any]] = {
    "labels": _words,
    "background": _words_or("auto", "none"),
    "instances": _words_or("true", "false", "1", "0"),
    "positive": _points,
    "negative": _points,
    "box": lambda values: values[0].split(","),
}


def _parsed(text: str, source: str) -> Any:
    def refuse(message: str) -> Refusal:
        return Refusal(422, message)

    return parse_json(text, source=source, advice=_ADVICE, error=refuse)  # type: ignore[arg-type]
