"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ovseg.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """How much one request, and all of them together, may take.

    Attributes:
        max_bytes: of the body of one request; eight times as many may be on their way at once.
        max_pixels: of a photo, told from its header before it is decoded.
        max_labels: of one request, contrast phrases and examples included.
        seconds: of one request, waiting included.
        queue: requests that wait or are computed at once; further ones are refused.
        cache_photos: encoded photos that are kept, at most.
        cache_bytes: of these photos together; the one that was used last stays, whatever its size.

    Raises:
        ConfigError: one is not above 0.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_labels: int = 1000
    seconds: float = 60.0
    queue: int = 16
    cache_photos: int = 32
    cache_bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigError(f"{field.name} must be above 0, got {value}; give a larger number")


@dataclass(frozen=True)
class Access:
    """Who may ask, and what of this machine they may see.

    Attributes:
        folder: the only folder whose photos may be named by path; None allows no path.
        token: what a client must send; None lets everybody in.
        hosts: the names that a client may call this server by; None allows any. Pages of the web can make a browser
            call a name of theirs that leads to 127.0.0.1, which this refuses.
    """

    folder: Path | None = None
    token: str | None = None
    hosts: tuple[str, ...] | None = None
