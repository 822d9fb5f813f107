"""A server of the toy model, a client of it, and photos to send."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.toy import COLOURS, make_segmenter

LABELS = ["red", "blue"]


def needs_server() -> None:
    """Skip a module of tests where the API's packages are missing."""
    for name in ("fastapi", "httpx", "python_multipart", "uvicorn"):
        pytest.importorskip(name, reason="needs pip install 'ovseg[serve]' httpx")


def two_squares() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(64, 96, 3): red on the left, blue on the right, grey around."""
    image = np.full((64, 96, 3), 120, np.uint8)
    image[16:48, 8:40], image[16:48, 56:88] = COLOURS["red"], COLOURS["blue"]
    return image


def png(image: Any = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(two_squares() if image is None else image).save(stream, "PNG")
    return stream.getvalue()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def make_client(
    *, limits: dict[str, Any] | None = None, bank: Any = None, segmenter: Any = None, **access: Any
) -> Any:
    """A client of a server of its own; its service is ``client.app.state.service``."""
    from fastapi.testclient import TestClient

    from ovseg.serve.app import create_app
    from ovseg.serve.options import Access, Limits
    from ovseg.serve.service import Service

    allowed, limited = Access(**access), Limits(**(limits or {}))
    service = Service(segmenter or make_segmenter(), access=allowed, limits=limited, bank=bank)
    app = create_app(service)
    app.state.service = service
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def refused(answer: Any, status: int, *told: str) -> None:
    """Check that an answer is one sentence that says all of this."""
    assert answer.status_code == status, answer.text
    (sentence,) = answer.json().values()
    assert "\n" not in sentence and "Traceback" not in sentence
    for each in told:
        assert each in sentence, sentence


def folder_of_photos(path: Path) -> Path:
    """A folder with ``photo.png`` and ``sub/other.png``, beside a secret and links to it."""
    folder = path / "open"
    (folder / "sub").mkdir(parents=True)
    (folder / "photo.png").write_bytes(png())
    (folder / "sub" / "other.png").write_bytes(png())
    (path / "secret.png").write_bytes(png())
    (folder / "link.png").symlink_to(path / "secret.png")
    (folder / "up").symlink_to(path)
    (folder / "within.png").symlink_to(folder / "sub" / "other.png")
    return folder
