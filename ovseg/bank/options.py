"""How a bank is built, and what of that its manifest keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ovseg.bank.index import Kind
from ovseg.bank.vectors import describe_regions, region_keys
from ovseg.errors import ConfigError
from ovseg.images.reading import Reading

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter

Keys = Literal["joint", "structure"]
KEYS = ("joint", "structure")


@dataclass(frozen=True)
class BankOptions:
    """How a bank is built.

    Attributes:
        kind: of the index; "auto" chooses by size.
        recall: recall@10 that the index is tuned to.
        regions: region vectors per image besides the image's own, at most; 0 for none.
        keys: what regions are found again by: "joint", their own vectors, or "structure", means of the features of
            the model's second encoder, which then lie beside these (CorrCLIP's second version).
        shard_size: images written at once, at most; a killed build loses these, or the last five seconds.
        value_range: the values of the images that are black and white; None asks each file.
        bands: of the images, which are red, green and blue, or grey; None asks each file.

    Raises:
        ImageError: ``value_range`` or ``bands`` cannot be used; see ``images.reading.Reading``.
        ConfigError: keys are of another kind, or without regions.
    """

    kind: Kind = "auto"
    recall: float = 0.95
    regions: int = 8
    keys: Keys = "joint"
    shard_size: int = 64
    value_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.keys not in KEYS or (self.keys == "structure" and not self.regions):
            raise ConfigError(
                f"keys must be one of {', '.join(KEYS)}, the second only with regions, got '{self.keys}' and "
                f"{self.regions} regions; change one of them"
            )
        for name in ("value_range", "bands"):  # also from a list, as JSON has it
            object.__setattr__(self, name, getattr(self.reading, name))

    @property
    def reading(self) -> Reading:
        """What is said about the values of the images."""
        return Reading.of(self.value_range, self.bands)


def stored_options(options: BankOptions) -> dict[str, Any]:
    """The options as a manifest, and the note of a build that is under way, hold them."""
    rest: dict[str, Any] = {"kind": options.kind, "recall": options.recall, "shard_size": options.shard_size}
    said = {"value_range": options.value_range, "bands": options.bands}
    rest |= {} if options.keys == "joint" else {"keys": options.keys}
    rest |= {name: list(values) for name, values in said.items() if values is not None}
    return {"regions": options.regions, "options": rest}


def read_options(stored: dict[str, Any]) -> BankOptions:
    """The options of a manifest or a note."""
    return BankOptions(regions=stored["regions"], **stored["options"])


def check_options(before: BankOptions, options: BankOptions, *, root: Path) -> None:
    """Refuse options that would make another bank; the shards may be of any size."""
    same = ("recall", "regions", "keys", "bands")
    names = {"kind": "index", "value_range": "range", **{name: name for name in same}}  # as the command line says
    wanted = [(name, getattr(before, key), getattr(options, key)) for key, name in names.items()]
    if differing := [(name, old, new) for name, old, new in wanted if old != new]:
        was = ", ".join(f"{name} {old}" for name, old, _ in differing)
        got = ", ".join(f"{name} {new}" for name, _, new in differing)
        raise ConfigError(
            f"the bank '{root}' was built with {was}, got {got}; give the same, choose another folder, or delete "
            "this one"
        )


def check_keys(segmenter: Segmenter, options: BankOptions) -> None:
    """Refuse keys of a second encoder where a model has none, before all images turn out to be bad.

    Raises:
        ConfigError: says which models have one.
    """
    if options.keys == "structure":
        features = segmenter.encode(np.full((64, 64, 3), 127, np.uint8)).features
        region_keys(features, describe_regions(features, 1)[0])
