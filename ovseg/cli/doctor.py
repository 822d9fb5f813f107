"""``ovseg doctor``: what is installed, which device answers, what is kept where, and what is missing for what."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ovseg.cli.output import echo


class Extra(NamedTuple):
    """An extra of the package: the modules that it brings, and what for."""

    modules: tuple[str, ...]
    purpose: str


EXTRAS = {
    "serve": Extra(("fastapi", "uvicorn", "python_multipart", "gradio"), "ovseg serve"),
    "video": Extra(("av",), "ovseg video"),
    "crf": Extra(("pydensecrf",), "refinement by a dense CRF"),
    "geo": Extra(("rasterio",), "images of the earth"),
    "notebook": Extra(("pandas", "supervision"), "results as tables and as supervision's detections"),
    "onnx": Extra(("onnx", "onnxruntime", "onnxscript"), "models as ONNX graphs (--runtime onnx, ovseg export)"),
    "openvino": Extra(("openvino", "onnx", "onnxscript"), "models in OpenVINO (--runtime openvino)"),
    "distributed": Extra(("ray",), "many machines, by Ray"),
    "storage": Extra(("s3fs", "gcsfs"), "photos and results in object storage"),
    "faiss-gpu": Extra(("faiss",), "banks searched by a GPU, in place of faiss-cpu"),
}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False) -> None:
    """Say what is installed, which device answers, what is kept where, and what is missing for what.

    The status is 1 if a file of the package's weights is not whole.

    Example: ovseg doctor
    """
    found = examine()
    echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(_lines(found)))
    if any(state != "whole" for state in found["weights"].values()):
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything that is told, as plain values that fit into JSON; fetches nothing."""
    from ovseg.provenance import environment

    return {
        **environment(),
        "device": _device(),
        "weights": _weights(),
        "caches": {name: {"folder": str(folder), "bytes": _size(folder)} for name, folder in _caches().items()},
        "missing": {
            name: [module for module in extra.modules if find_spec(module) is None]
            for name, extra in EXTRAS.items()
        },
    }


def _device() -> str:
    import torch

    from ovseg.encoders.spec import choose_device

    device = choose_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device} ({name})"


def _weights() -> dict[str, str]:
    """By file of the package's weights: "whole", or what is wrong with it."""
    from ovseg.assets import asset_root
    from ovseg.models.config import read_model_config
    from ovseg.sam.mobile import MOBILE_SAM, SHA256

    encoder, root = read_model_config("mini").encoder, asset_root("models")
    sums = {root / encoder.name / name: expected for name, expected in encoder.sha256.items()}
    sums |= {root / MOBILE_SAM / name: expected for name, expected in SHA256.items()}
    return {f"{path.parent.name}/{path.name}": _state(path, expected) for path, expected in sums.items()}


def _state(path: Path, expected: str) -> str:
    from ovseg.errors import ModelError
    from ovseg.weights import check_sum

    try:
        check_sum(path, expected)
    except ModelError as error:
        return str(error)
    return "whole"


def _caches() -> dict[str, Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from ovseg.own_files import OWN_FILES
    from ovseg.pipeline.text_cache import DEFAULT_FOLDER
    from ovseg.runtimes.attach import CACHE
    from ovseg.storage.copies import FOLDER

    return {
        "text vectors": DEFAULT_FOLDER,
        "graphs of models": CACHE,
        "files of your own": OWN_FILES,
        "copies of storage": FOLDER,
        "models of the hub": Path(HF_HUB_CACHE),
    }


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, links left out; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _lines(found: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"versions  python {found['python']}, {versions}",
        f"machine   {found['platform']}, device {found['device']}",
    ]
    damaged = {name: state for name, state in found["weights"].items() if state != "whole"}
    lines += [f"weights   {state}" for state in damaged.values()]
    if not damaged:
        lines.append(f"weights   the {len(found['weights'])} files in the package are whole")
    for name, cache in found["caches"].items():
        lines.append(f"cache     {name}: {cache['folder']}, {cache['bytes'] / 2**20:.1f} MB")
    for name, modules in found["missing"].items():
        if modules:
            lines.append(
                f"missing   {EXTRAS[name].purpose}: pip install 'ovseg[{name}]' (no {', '.join(modules)} here)"
            )
    return lines
