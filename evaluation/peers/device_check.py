"""Whether an accelerator gives what the processor gives, and how fast it is: one run of a few minutes.

    python evaluation/peers/device_check.py [--device cuda] [--only labels,mini,...] [--quick] [--out FILE.json]

Sections, each independent of the others:

- labels: `mini` on the example photos, in float32 and in the type that the device takes by itself, as its file says
  and in the order of three papers; share of pixels with the processor's label.
- recipes: dense features of CLIP ViT-B/16 with random weights, by every recipe; cosine with the processor's.
- mini: photos a second through whole calls, one by one and in batches.
- towers: photos a second through CLIP ViT-B/16 and L/14 (random weights), by recipe and type, one of them compiled.
- windows: one large photo in windows of 336 pixels, so many of them together.
- bank: photos a second of a bank's building.
- search: 64 searches through 300,000 vectors, where FAISS has a GPU.
- training: steps a second of a head from cached features.

Random weights take as long as trained ones. `--quick` does a little of each, to see that it runs. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import faiss
import numpy as np
import torch
from bank_speed import clustered
from numpy.typing import NDArray
from PIL import Image
from tower_speed import random_model, with_random_text

import ovseg
from ovseg.bank import ImageBank
from ovseg.bank.index import VectorIndex
from ovseg.encoders.compiled import compile_blocks
from ovseg.encoders.spec import choose_dtype
from ovseg.heads.registry import HeadConfig
from ovseg.images.load import load_image
from ovseg.images.resize import prepare
from ovseg.models.model import Model
from ovseg.pipeline import encode
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.data import MaskData
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.masks import HeadSchedule, MasksConfig, build_masks
from ovseg.training.runs import trainable_model

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = ("cat", "temple", "coffee", "flower", "astronaut")
LABELS = ["cat", "wall", "temple", "tree", "sky", "cup", "table", "flower", "person"]
METHODS = ("sclip", "naclip", "clearclip")
RECIPES = ("maskclip", "sclip", "clearclip", "naclip", "proxyclip", "corrclip", "resclip", "scclip")
Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Check:
    """What is measured on.

    Attributes:
        device: the accelerator.
        quick: whether a little of each is enough.
    """

    device: torch.device
    quick: bool

    @cached_property
    def photos(self) -> list[NDArray[np.uint8]]:
        """Photos of one size, different pieces of the examples."""
        pictures = [load_image(EXAMPLES / f"{name}.jpg") for name in PHOTOS]
        whole = [np.asarray(Image.fromarray(each).resize((660, 500))) for each in pictures]
        shifts = [(0, 0), (20, 0), (0, 20), (20, 20)]
        photos = [each[dy : dy + 480, dx : dx + 640] for dy, dx in shifts for each in whole]
        return photos[:2] if self.quick else photos * 2

    def milliseconds(self, job: Callable[[], object], *, rounds: int = 7) -> float:
        """Median wall time of a job, its work on the device done; the first two rounds do not count."""
        times = []
        warm, rounds = (0, 1) if self.quick else (2, rounds)
        for _ in range(warm + rounds):
            started = time.perf_counter()
            job()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return 1000 * statistics.median(times[warm:])

    def speed(self, job: Callable[[], object], photos: int) -> float:
        """Photos a second of a job that takes so many."""
        return 1000 * photos / self.milliseconds(job, rounds=3)

    def moved(self, model: Model, dtype: torch.dtype = torch.float32) -> Segmenter:
        """A model with random weights on the device, and random text vectors."""
        model.image.to(device=self.device, dtype=dtype)
        return with_random_text(model, self.device)


def labels(check: Check) -> Figures:
    """Shares of pixels with the processor's label."""
    usual = ovseg.load("mini", device="cpu")
    others = {dtype: ovseg.load("mini", device=str(check.device), dtype=dtype) for dtype in ("float32", "auto")}
    for photo in PHOTOS[: 1 if check.quick else None]:
        path = EXAMPLES / f"{photo}.jpg"
        expected = usual.segment(path, LABELS).index_map
        for name, each in others.items():
            yield f"{photo}, {name}", float((each.segment(path, LABELS).index_map == expected).mean())
        for method in METHODS:
            pair = [
                each.for_benchmark("voc21", method=method).segment(path, LABELS, background=["floor"]).index_map
                for each in (usual, others["float32"])
            ]
            yield f"{photo}, order of {method}", float((pair[0] == pair[1]).mean())
    best = [each.segment(EXAMPLES / "cat.jpg", ["cat"], instances=True) for each in (usual, others["float32"])]
    one, other = (each.instances[0].mask() for each in best)
    yield "object of the cat, float32 (IoU)", float((one & other).sum() / (one | other).sum())


def recipes(check: Check) -> Figures:
    """Smallest cosine over cells between the features of the device and those of the processor."""
    for recipe in RECIPES[:: 7 if check.quick else 1]:
        model = random_model(f"clip-b16-{recipe}-shared")
        size = (112, 112) if check.quick else (224, 320)
        pixels, _ = prepare(load_image(EXAMPLES / "temple.jpg"), model.image.spec, size=size)
        with torch.inference_mode():
            expected = model.image.dense(pixels).values
            for dtype in (torch.float32, torch.bfloat16):
                encoder = check.moved(model, dtype).model.image
                found = encoder.dense(pixels.to(check.device)).values.cpu().float()
                yield f"{recipe}, {_short(dtype)}", float(torch.cosine_similarity(found, expected, dim=1).min())


def mini(check: Check) -> Figures:
    """Photos a second, from decoded photos to label maps."""
    photos, some = check.photos[:16], check.photos[:5]
    devices = [("cpu", "float32"), (str(check.device), "float32"), (str(check.device), "auto")]
    for (device, dtype), refine in product(devices, (False, True)):
        segmenter = ovseg.load("mini", device=device, dtype=dtype)
        segment = partial(segmenter.segment, labels=LABELS, refine=refine)
        name = f"{device}, {dtype}{', refined' * refine}"
        yield f"{name}: one by one (photos/s)", check.speed(lambda: [segment(photo) for photo in some], len(some))  # noqa: B023
        batch = partial(segmenter.segment_batch, photos, LABELS, batch_size=len(photos), refine=refine)
        yield f"{name}: {len(photos)} together (photos/s)", check.speed(lambda: list(batch()), len(photos))  # noqa: B023


@torch.inference_mode()
def towers(check: Check) -> Figures:
    """Photos of 448 pixels a second through dense features."""
    names = ["clip-b16-naclip-shared"] if check.quick else [f"clip-b16-{recipe}-shared" for recipe in RECIPES]
    names += [] if check.quick else ["clip-l14-naclip-shared", "clip-l14-proxyclip-shared"]
    side, count = (112, 1) if check.quick else (448, 8)
    for name in names:
        model = random_model(name)
        for dtype in (torch.float32, torch.bfloat16):
            encoder = check.moved(model, dtype).model.image
            pixels = torch.randn(count, 3, side, side, device=check.device)
            dense = partial(encoder.dense, pixels)
            yield f"{name}, {_short(dtype)} (photos/s)", check.speed(dense, count)
        if name == "clip-b16-naclip-shared" and not check.quick:
            compile_blocks(encoder, device=check.device)
            yield f"{name}, bfloat16, compiled (photos/s)", check.speed(dense, count)


def windows(check: Check) -> Figures:
    """Milliseconds of a photo of 2016 × 2016 pixels in windows of 336."""
    segmenter = check.moved(random_model("clip-b16-naclip-shared"), choose_dtype("auto", check.device))
    side = 400 if check.quick else 2016
    segmenter = segmenter.with_input(short_side=side, max_long_side=side, window=336, overlap=112)
    photo = np.asarray(Image.fromarray(check.photos[0]).resize((side, side)))
    usual = encode._BATCH_WINDOWS, encode._BATCH_PIXELS
    for together in (1,) if check.quick else (1, 8, 32):
        encode._BATCH_WINDOWS, encode._BATCH_PIXELS = together, together * 448**2
        yield f"{together} together (ms)", check.milliseconds(lambda: segmenter.encode_batch([photo]))
    encode._BATCH_WINDOWS, encode._BATCH_PIXELS = usual


def bank(check: Check) -> Figures:
    """Photos a second of building."""
    with tempfile.TemporaryDirectory() as folder:
        for number, photo in enumerate(check.photos):
            Image.fromarray(photo).save(Path(folder) / f"{number}.png")
        for number, name in enumerate(("cpu", str(check.device))):
            segmenter = ovseg.load("mini", device=name)
            segmenter.segment(check.photos[0], LABELS)
            started = time.perf_counter()
            ImageBank.build(f"{folder}/*.png", out=Path(folder) / f"bank-{number}", segmenter=segmenter)
            yield f"built on {name} (photos/s)", len(check.photos) / (time.perf_counter() - started)


def search(check: Check) -> Figures:
    """Milliseconds of 64 searches at once."""
    vectors, asked = (clustered(count, seed) for seed, count in ((1, 2_000 if check.quick else 300_000), (2, 64)))
    for kind in ("flat", "ivf"):
        index = VectorIndex.build(vectors, kind=kind)
        found, usual = index.search(asked, 10), index.index.search(asked, 10)
        alone = partial(index.index.search, asked, 10)
        yield f"{kind}, FAISS on the processor (ms)", check.milliseconds(alone)
        if getattr(faiss, "get_num_gpus", lambda: 0)():
            yield f"{kind}, on the GPU (ms)", check.milliseconds(partial(index.search, asked, 10))
            yield f"{kind}, equal rows", float((found[1] == usual[1]).mean())


def training(check: Check) -> Figures:
    """Steps a second of an adapter, from features in the cache; accelerate chooses the device."""
    steps = 3 if check.quick else 60
    segmenter = ovseg.load("mini", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number, photo in enumerate(check.photos[:10]):
            for kind, array in (("images", photo), ("masks", _labelled(segmenter, photo))):
                (root / kind).mkdir(exist_ok=True)
                Image.fromarray(array).save(root / kind / f"{number}.png")
        (root / "classes.txt").write_text("\n".join(LABELS))
        for batch in (8,) if check.quick else (8, 64):
            config = MasksConfig(
                head=HeadConfig(kind="adapter"),
                data=(MaskData(protocol="folder", path=root),),
                schedule=HeadSchedule(steps=steps + 1, batch=batch),
                save_every=10_000,
                out=root / f"run-{batch}",
            )
            accelerator = make_accelerator(config)
            task = build_masks(config, trainable_model("mini"), FeatureCache(root / "features"), accelerator)
            running = train_steps(task, config, config.out, accelerator=accelerator)
            next(running)
            started = time.perf_counter()
            for _ in range(steps - 1):
                next(running)
            yield f"batches of {batch} (steps/s)", (steps - 1) / (time.perf_counter() - started)


def _labelled(segmenter: Segmenter, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    index = segmenter.segment(photo, LABELS).index_map
    return np.where(index < 0, 255, index).astype(np.uint8)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


SECTIONS = {each.__name__: each for each in (labels, recipes, mini, towers, windows, bank, search, training)}


def main() -> None:
    """Run the sections and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas between them")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    check = Check(torch.device(given.device), given.quick)
    name = torch.cuda.get_device_name() if check.device.type == "cuda" else given.device
    print(name, f"torch {torch.__version__}", flush=True)
    figures: dict[str, dict[str, float]] = {}
    for section in given.only.split(","):
        started = time.perf_counter()
        figures[section] = {}
        for what, value in SECTIONS[section](check):
            figures[section][what] = value
            print(f"{section:9s} {what:60s} {value:10.4g}", flush=True)
        print(f"{section}: {time.perf_counter() - started:.0f} s", flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps({"device": name, "torch": torch.__version__, "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
