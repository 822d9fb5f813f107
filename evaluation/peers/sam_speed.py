"""What the embedded SAM costs beside the same network in timm and transformers: measured in one run, interleaved.

    .venv/bin/python evaluation/peers/sam_speed.py [IMAGE] [--boxes 20] [--rounds 3] [--json FILE]

Reported, on two threads, for a photo of 640×480: milliseconds of the encoder, of the masks of all boxes and of
their enlargement, ratios to timm's TinyViT and transformers' mask decoder in single precision, the smallest overlap
of the masks of both decoders, start-up of both, and seconds and peak memory of the whole in a process of its own.
Nothing here is asserted; machines differ.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import EXAMPLES, medians, run_python, show, start_up
from torch import Tensor, nn

from ovseg._torchvision import ensure_torchvision
from ovseg.sam import load_sam, to_image
from ovseg.sam.mobile import FrameSam, frame
from ovseg.sam.protocol import SamEmbedding

ensure_torchvision()
from timm.models.tiny_vit import TinyVit  # noqa: E402  (it imports torchvision)
from transformers import SamConfig  # noqa: E402
from transformers.models.sam.modeling_sam import SamMaskDecoder  # noqa: E402

OURS = "import ovseg.sam; ovseg.sam.load_sam()"
THEIRS = """
from ovseg._torchvision import ensure_torchvision
ensure_torchvision()
from timm.models.tiny_vit import TinyVit
from transformers.models.sam.modeling_sam import SamMaskDecoder
"""
WHOLE = """
import json, sys, time
import numpy as np
import torch
from PIL import Image
from ovseg.provenance import peak_memory_mib
from ovseg.sam import load_sam, to_image
torch.set_num_threads(2)
image = torch.from_numpy(np.array(Image.open(sys.argv[1]).convert("RGB").resize((640, 480))))
start = time.perf_counter()
sam = load_sam()
embedding = sam.encode(image)
logits, _ = sam.masks(embedding, boxes=torch.tensor(json.loads(sys.argv[2])))
for mask in to_image(embedding, logits[:, 0]):
    pass
print(time.perf_counter() - start, peak_memory_mib()["resident"])
"""


def boxes_in(count: int) -> Tensor:
    """(n, 4) boxes of many sizes in a photo of 640×480."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, 2, generator=draw) * torch.tensor([640.0, 480.0])
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def timm_encoder() -> nn.Module:
    """The image encoder without its neck, by timm; its weights are random, which does not change its time."""
    trunk = TinyVit(embed_dims=(64, 128, 160, 320), num_heads=(2, 4, 5, 10), num_classes=0, drop_path_rate=0.0)
    trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
    trunk.head = nn.Identity()
    return trunk.eval()


def their_decoder(ours: FrameSam) -> SamMaskDecoder:
    """transformers' mask decoder with the weights of ours, and the epsilon of SAM's authors."""
    config = SamConfig().mask_decoder_config
    config.layer_norm_eps = 1e-5
    config._attn_implementation = "sdpa"
    decoder = SamMaskDecoder(config).eval()
    decoder.load_state_dict(ours.decoder.state_dict())
    return decoder


def by_transformers(decoder: SamMaskDecoder, ours: FrameSam, embedding: SamEmbedding, boxes: Tensor) -> Tensor:
    """Logits (n, 1, 256, 256) of boxes of the photo, all in one run, as transformers' ``SamModel`` has it."""
    framed = boxes * (embedding.geometry.resized[1] / embedding.geometry.original[1])
    tokens = ours.prompts(framed, None, None, side=1024)
    cells = embedding.features.T.reshape(1, 256, 64, 64)  # with what stands for no mask
    places = ours.prompts.places(64, 64).T.reshape(1, 256, 64, 64)
    logits: Tensor = decoder(cells, places, tokens[None], torch.zeros_like(cells), False)[0][0]
    return logits


def overlap(one: Tensor, other: Tensor) -> float:
    """Smallest intersection over union of two sets of masks (n, H, W)."""
    both, either = ((one & other).flatten(1).sum(1), (one | other).flatten(1).sum(1))
    return float((both / either.clamp_min(1)).min())


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=EXAMPLES / "cat.jpg", type=Path)
    parser.add_argument("--boxes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    sam = load_sam()
    assert isinstance(sam, FrameSam)
    image = torch.from_numpy(np.array(Image.open(options.image).convert("RGB").resize((640, 480))))
    pixels, _ = frame(image)
    boxes, embedding = boxes_in(options.boxes), sam.encode(image)
    decoder, trunk = their_decoder(sam), timm_encoder()
    logits, _ = sam.masks(embedding, boxes=boxes)
    times = medians(
        {
            "encoder": lambda: sam.encode(image),
            "timm": lambda: trunk.forward_features(pixels),
            "masks": lambda: sam.masks(embedding, boxes=boxes),
            "transformers": lambda: by_transformers(decoder, sam, embedding, boxes),
            "to_image": lambda: list(to_image(embedding, logits[:, 0])),
        },
        rounds=options.rounds,
    )
    theirs = by_transformers(decoder, sam, embedding, boxes)
    masks = [torch.stack(list(to_image(embedding, found[:, 0]))) for found in (logits, theirs)]
    figures = {f"{name} (ms)": times[name] for name in ("encoder", "masks", "to_image")}
    figures["encoder / timm"] = times["encoder"] / times["timm"]
    figures["masks / transformers"] = times["masks"] / times["transformers"]
    figures["smallest overlap of masks"] = overlap(*masks)
    figures["start-up, import and load (s)"] = start_up(["-c", OURS], rounds=3)
    figures["start-up, timm + transformers (s)"] = start_up(["-c", THEIRS], rounds=3)
    printed = run_python(["-c", WHOLE, str(options.image.resolve()), json.dumps(boxes.tolist())])
    figures["the whole, load included (s)"], figures["peak (MB)"] = map(float, printed.split())
    show(figures, options.json)


if __name__ == "__main__":
    main()
