"""What ``speed.py`` measures: jobs by name, each made once and then called; or one alone, in this process.

    python contenders.py NAME SCENE

Alone, a job is made and called once, and the peak of this process's memory in MB is printed. Nothing is imported
before a job needs it, so that a runtime which needs no PyTorch is measured without. Networks that a user might
install instead have random weights, which take the time of trained ones, and their own input sizes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from timing import Job

from ovseg.prefetch import chunks  # neither imports torch or a runtime
from ovseg.provenance import peak_memory_mib

FIVE = ("person", "dog", "car", "tree", "road")
SIZES = {"0.3 MP": (640, 480), "12 MP": (4000, 3000)}  # width and height of the photos


@dataclass(frozen=True)
class Scene:
    """What all jobs get.

    Attributes:
        root: folder with ``graph.onnx``, the networks of ``mini`` from normalised pixels to features;
            ``pixels.npy``, a photo as they see it; ``0.3 MP.jpg`` and ``12 MP.jpg``; and ``photos/``, many of the
            smaller size.
        threads: that a job may use.
        part: how many of many photos a call does; the next call does those that follow.
    """

    root: str
    threads: int
    part: int

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return Path(self.root) / name

    def parts(self) -> Iterator[list[Path]]:
        """The many photos, in parts, over and over."""
        return cycle(chunks(sorted(self.path("photos").iterdir()), self.part))


def labels(count: int) -> list[str]:
    """So many of them; five are words, others are invented."""
    return list(FIVE) if count == len(FIVE) else [f"thing {number}" for number in range(count)]


def in_onnxruntime(scene: Scene, times: int = 1) -> Job:
    """The bare networks in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = scene.threads, 4
    graph, here = str(scene.path("graph.onnx")), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(graph, options, providers=here)
    given = {session.get_inputs()[0].name: np.load(scene.path("pixels.npy"))}
    return lambda: [session.run(None, given) for _ in range(times)]


def in_openvino(scene: Scene, times: int = 1) -> Job:
    """The bare networks in OpenVINO, in single precision."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": scene.threads}
    compiled = openvino.Core().compile_model(str(scene.path("graph.onnx")), "CPU", settings)
    request, pixels = compiled.create_infer_request(), np.load(scene.path("pixels.npy"))
    return lambda: [request.infer([pixels]) for _ in range(times)]


def in_torch(scene: Scene, times: int = 1) -> Job:
    """The bare networks in PyTorch."""
    import torch

    networks, pixels = mini(scene.threads).model.image, torch.from_numpy(np.load(scene.path("pixels.npy")))
    return lambda: [networks.dense(pixels) for _ in range(times)]


NETWORKS: dict[str, Callable[..., Job]] = {
    "ONNX Runtime": in_onnxruntime,
    "OpenVINO": in_openvino,
    "PyTorch": in_torch,
}


@cache
def mini(threads: int, runtime: str = "torch") -> Any:
    """The default model; a runtime keeps the number of threads that torch had when it was loaded."""
    import torch

    import ovseg

    torch.set_num_threads(threads)
    return ovseg.load("mini", device="cpu", runtime=runtime)


def call(scene: Scene, size: str, count: int, *, runtime: str = "torch", **options: Any) -> Job:
    """A whole call on the file of a photo."""
    segmenter, asked = mini(scene.threads, runtime), labels(count)
    return lambda: segmenter.segment(scene.path(f"{size}.jpg"), asked, **options)


def folder(scene: Scene, way: str, runtime: str = "torch") -> Job:
    """Files of a folder, "side by side" or "one by one"; no result is kept."""
    segmenter, parts = mini(scene.threads, runtime), scene.parts()

    def side_by_side() -> None:
        for _ in segmenter.segment_batch(next(parts), labels(5)):
            pass

    def one_by_one() -> None:
        for path in next(parts):
            segmenter.segment(path, labels(5))

    return side_by_side if way == "side by side" else one_by_one


@cache
def steps(scene: Scene, size: str, count: int) -> dict[str, Job]:
    """What a call does one after the other, each on what came before it."""
    from ovseg.images.load import load_image
    from ovseg.images.resize import prepare
    from ovseg.pipeline.encode import plan_input

    segmenter, path = mini(scene.threads), scene.path(f"{size}.jpg")
    image, model = load_image(path), segmenter.model
    planned, _ = plan_input(image.shape[:2], segmenter.config.input, multiple=model.image.spec.granularity)
    dense = model.image.dense(prepare(image, model.image.spec, size=planned)[0])
    encoded, queries = segmenter.encode(image), segmenter.queries(labels(count))
    logits = segmenter.logits(encoded, queries)
    return {
        "read the file": lambda: load_image(path),
        "prepare the input": lambda: prepare(image, model.image.spec, size=planned),
        "head": lambda: model.head.pixels(dense),
        "compare with words": lambda: segmenter.logits(encoded, queries),
        "decide pixels": lambda: segmenter.decide(logits, encoded, refine=False),
        "decide pixels, borders refined": lambda: segmenter.decide(logits, encoded, refine=True),
    }


def stage(scene: Scene, name: str, size: str, count: int) -> Job:
    """One step of a call."""
    return steps(scene, size, count)[name]


def clipseg(scene: Scene, size: str, count: int) -> Job:
    """CLIPSeg, the photo's file to a label map: one pass a label."""
    from PIL import Image

    from ovseg.evaluation.run.clipseg import ClipSeg

    set_threads(scene)
    peer, path = ClipSeg(None), scene.path(f"{size}.jpg")
    return lambda: peer.segment(np.asarray(Image.open(path).convert("RGB")), labels(count))


def groupvit(scene: Scene) -> Job:
    """GroupViT's image network, which compares groups of patches with text vectors: any number of labels."""
    torch = set_threads(scene)  # first: transformers imports torchvision
    from transformers import GroupViTVisionConfig, GroupViTVisionModel

    network, pixels = GroupViTVisionModel(GroupViTVisionConfig()).eval(), torch.randn(1, 3, 224, 224)
    return lambda: network(pixel_values=pixels, output_attentions=True)


def oneformer(scene: Scene) -> Job:
    """OneFormer's network, Swin-T: a fixed set of 150 classes."""
    torch = set_threads(scene)
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, SwinConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    config = OneFormerConfig(backbone_config=SwinConfig(out_features=stages))
    config.is_training = False
    network = OneFormerForUniversalSegmentation(config).eval()
    pixels, tasks = torch.randn(1, 3, 640, 640), torch.randint(1, 1000, (1, 77))
    return lambda: network(pixel_values=pixels, task_inputs=tasks)


def mobile_sam(scene: Scene, size: str) -> Job:
    """The embedded SAM's encoder: masks without names."""
    from ovseg.images.load import load_image
    from ovseg.sam.load import load_sam

    torch = set_threads(scene)
    sam, path = load_sam("mobile-sam"), scene.path(f"{size}.jpg")
    return lambda: sam.encode(torch.from_numpy(load_image(path)))


def set_threads(scene: Scene) -> Any:
    """torch with so many threads as the scene has, and a torchvision that transformers can import."""
    import torch

    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    torch.set_num_threads(scene.threads)
    torch.manual_seed(0)
    return torch


Make = Callable[[Scene], Job]

FIRST = {f"the networks of `mini` in {name}": partial(make, times=1) for name, make in NETWORKS.items()}
STAGES: dict[str, Make] = {
    f"{name}, {size}, {count:,} label{'s' * (count > 1)}": partial(stage, name=name, size=size, count=count)
    for size, count, names in (
        ("0.3 MP", 5, ("read the file", "prepare the input", "head")),
        ("0.3 MP", 5, ("compare with words", "decide pixels", "decide pixels, borders refined")),
        ("0.3 MP", 1000, ("compare with words", "decide pixels, borders refined")),
        ("12 MP", 5, ("read the file", "prepare the input", "decide pixels", "decide pixels, borders refined")),
    )
    for name in names
}
CALLS: dict[str, Make] = {
    f"`mini`, {size}, {count:,} label{'s' * (count > 1)}": partial(call, size=size, count=count)
    for size in SIZES
    for count in (1, 5, 150, 1000)
}
VARIANTS: dict[str, Make] = {
    "`mini`, 0.3 MP, 5 labels, no refinement": partial(call, size="0.3 MP", count=5, refine=False),
    "`mini`, 0.3 MP, 5 labels, features by ONNX Runtime": partial(call, size="0.3 MP", count=5, runtime="onnx"),
    "`mini`, 0.3 MP, 5 labels, features by OpenVINO": partial(call, size="0.3 MP", count=5, runtime="openvino"),
}
PEERS: dict[str, Make] = {
    **{
        f"CLIPSeg (352 px), {size}, {count:,} label{'s' * (count > 1)}": partial(clipseg, size=size, count=count)
        for size, count in (("0.3 MP", 1), ("0.3 MP", 5), ("0.3 MP", 150), ("12 MP", 5))
    },
    "GroupViT (224 px), image network alone": groupvit,
    "OneFormer, Swin-T (640 px), network alone": oneformer,
    **{f"MobileSAM's encoder (1024 px), {size}": partial(mobile_sam, size=size) for size in SIZES},
}
FOLDERS: dict[str, Make] = {
    f"`mini`, {way}{told}": partial(folder, way=way, runtime=runtime)
    for way, told, runtime in (
        ("one by one", "", "torch"),
        ("side by side", "", "torch"),
        ("side by side", ", features by OpenVINO", "openvino"),
    )
}
ALL: dict[str, Make] = {**FIRST, **STAGES, **CALLS, **VARIANTS, **PEERS, **FOLDERS}


def main() -> None:
    """Make one job and call it once."""
    name, told = sys.argv[1:]
    ALL[name](Scene(**json.loads(told)))()
    print(peak_memory_mib()["resident"])


def told(scene: Scene) -> str:
    """The scene as the argument of this program."""
    return json.dumps(asdict(scene))


if __name__ == "__main__":
    main()
