"""The image side of ``mini``: an ImageNet classifier and a COCO detector read densely, in one feature vector.

Each level is centred by a stored mean and scaled to unit length, so that no level dominates; the last
part is the detector's class evidence as it is. Heads choose the parts they use by name. The detector's boxes
come with the features, from the same run.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.embedded.detector import BoxBranch
from ovseg.encoders.embedded.lcnet import LCNetV2
from ovseg.encoders.embedded.picodet import PicoDet, PicoDetMaps
from ovseg.encoders.spec import DenseFeatures, EncoderSpec, as_features
from ovseg.weights import fill_module, freeze

# name and channels of the parts of a feature vector, in order
PARTS: dict[str, int] = {
    "fine": 256,
    "middle": 512,
    "body": 1024,
    "near": 96,
    "mid": 96,
    "far": 96,
    "penultimate": 1280,
    "detected": 80,
}
STRIDE = 16
SPACE = "pp-lcnetv2+picodet-s"


def part_slices() -> dict[str, slice]:
    """Where each part of a feature vector stands."""
    slices, start = {}, 0
    for name, channels in PARTS.items():
        slices[name] = slice(start, start + channels)
        start += channels
    return slices


class MiniVision(nn.Module):
    """PP-LCNetV2-base and PicoDet-S side by side, both at stride 16.

    Source: Cui et al., arXiv 2109.15099; Yu et al., arXiv 2111.00902.

    Attributes:
        branch: the detector's boxes; None leaves them out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.branch: BoxBranch | None = None
        self.classifier = LCNetV2()
        self.detector = PicoDet()
        self.means = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(size)) for name, size in PARTS.items() if name != "detected"}
        )

    @property
    def spec(self) -> EncoderSpec:
        """Preprocessing, space and licence."""
        return EncoderSpec(
            name="mini-vision",
            space=SPACE,
            stride=STRIDE,
            channels=sum(PARTS.values()),
            multiple=32,
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """What ``forward`` returns."""
        return ("values", "structure") if self.branch is None else ("values", "structure", "boxes")

    @classmethod
    def load(cls, path: str | Path) -> MiniVision:
        """The frozen encoder with the weights of a safetensors file, without boxes.

        Raises:
            ModelError: the file is missing, damaged or of another network.
        """
        encoder = freeze(fill_module(cls(), path))
        return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def levels(self, pixels: Tensor) -> tuple[dict[str, Tensor], PicoDetMaps]:
        """The parts of the feature vector before centring, each (B, C, H/16, W/16), and what the detector saw.

        Args:
            pixels: (B, 3, H, W), ImageNet-normalised RGB; H and W multiples of 32.
        """
        pixels = pixels.to(self.means["fine"].dtype).contiguous(memory_format=torch.channels_last)
        maps = self.classifier(pixels)
        found: PicoDetMaps = self.detector(pixels)
        grid = maps.middle.shape[-2:]
        near, mid, far = found.features
        parts = {
            "fine": functional.avg_pool2d(maps.fine, 2),
            "middle": maps.middle,
            "body": maps.body,
            "near": functional.avg_pool2d(near, 2),
            "mid": mid,
            "far": _resize(far, grid),
            "penultimate": self.classifier.embed(maps.body),
            "detected": torch.stack(
                [
                    functional.max_pool2d(found.classes[0], 2),
                    found.classes[1],
                    _resize(found.classes[2], grid),
                ]
            ).amax(0),
        }
        return parts, found

    def dense(self, pixels: Tensor) -> DenseFeatures:
        """Features of ``pixels`` (B, 3, H, W), ImageNet-normalised; H and W multiples of 32.

        Returns:
            values (B, 3440, H/16, W/16); structure is the middle level, (B, 512, H/16, W/16), unit length; boxes
            (B, n, 4 + 80), of every cell of the detector, however unlikely.
        """
        return as_features(self(pixels), pixels, SPACE, names=self.outputs)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """What ``dense`` returns as plain tensors, for export: those of ``outputs``."""
        levels, found = self.levels(pixels)
        units = {name: self._centred(name, maps) for name, maps in levels.items()}
        # all parts in one layout, or joining them would copy each into another
        parts = [maps.contiguous(memory_format=torch.channels_last) for maps in units.values()]
        maps = torch.cat(parts, 1).float(), units["middle"].float()
        if self.branch is None:
            return maps
        boxes, classes = self.branch(found)
        return *maps, torch.cat([boxes / STRIDE, classes.float()], -1)

    def _centred(self, name: str, maps: Tensor) -> Tensor:
        if name == "detected":
            return maps
        # with channels last as such, not by strides alone, the norm takes a third of the time
        rows = maps.permute(0, 2, 3, 1) - self.means[name]
        return functional.normalize(rows, dim=-1).permute(0, 3, 1, 2)


def _resize(maps: Tensor, grid: torch.Size) -> Tensor:
    return functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
