"""Programs that run a graph: ONNX Runtime and OpenVINO, from the same files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ovseg.errors import ModelError, require

Array = npt.NDArray[Any]
NAMES = ("openvino", "onnx")  # the faster one first
_MODULES = {"openvino": "openvino", "onnx": "onnxruntime"}


class Engine(Protocol):
    """A graph that is ready to run; safe to call from several threads."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for the inputs, both in the order of the graph."""


class OnnxEngine:
    """A graph in ONNX Runtime, on the CPU, with as many threads as torch.

    Args:
        path: an ``.onnx`` file.
        precision: float32 alone; lower ones are in the file itself.

    Raises:
        ModelError: the file cannot be read.
        MissingDependencyError: the extra ``onnx`` is not installed.
    """

    def __init__(self, path: Path, *, precision: str = "float32") -> None:
        runtime = require("onnxruntime", extra="onnx")
        if precision != "float32":
            raise ModelError(f"expected float32 for ONNX Runtime, got {precision}; use runtime='openvino'")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what fails is raised as well, and warnings say nothing to a user
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its bindings raise classes of their own for each cause
            raise _unreadable(path, error) from error
        self._names = [each.name for each in self._session.get_inputs()]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See ``Engine``."""
        try:
            found: list[Array] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        except Exception as error:  # its bindings raise classes of their own for each cause
            raise _failed(inputs, error) from error
        return found


class OpenVinoEngine:
    """A graph in OpenVINO, on the CPU, with as many threads as torch.

    Args:
        path: an ``.onnx`` or ``.xml`` file.
        precision: "float32", or "bfloat16", which is quick where the processor has units for it.

    Raises:
        ModelError: the file cannot be read.
        MissingDependencyError: the extra ``openvino`` is not installed.
    """

    def __init__(self, path: Path, *, precision: str = "float32") -> None:
        runtime = require("openvino", extra="openvino")
        hints = {"float32": "f32", "bfloat16": "bf16"}
        if precision not in hints:
            raise ModelError(f"expected float32 or bfloat16 for OpenVINO, got {precision}; choose one")
        settings = {"INFERENCE_PRECISION_HINT": hints[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            self._compiled = runtime.Core().compile_model(str(path), "CPU", settings)
        except Exception as error:  # its bindings raise RuntimeError for everything
            raise _unreadable(path, error) from error
        self._local = threading.local()  # a request serves one thread at a time

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See ``Engine``."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        try:
            found = self._local.request.infer(list(inputs))
        except RuntimeError as error:
            raise _failed(inputs, error) from error
        return [np.array(found[place]) for place in range(len(self._compiled.outputs))]


ENGINES: dict[str, Callable[..., Engine]] = {"openvino": OpenVinoEngine, "onnx": OnnxEngine}


def installed() -> tuple[str, ...]:
    """Those of ``NAMES`` that can be used here."""
    return tuple(name for name in NAMES if find_spec(_MODULES[name]) is not None)


def choose_engine(name: str) -> str:
    """The runtime called ``name``; "auto" is the first one of openvino, onnx and torch that is installed.

    Raises:
        ModelError: there is no such runtime.
    """
    if name == "auto":
        return (*installed(), "torch")[0]
    if name not in (*NAMES, "torch"):
        raise ModelError(
            f"expected runtime auto, torch, {', '.join(NAMES)} or a folder that 'ovseg export' wrote, got '{name}'"
        )
    return name


def _failed(inputs: Sequence[Array], error: Exception) -> ModelError:
    shapes = " and ".join(str(each.shape) for each in inputs)
    reason = " ".join(str(error).split())[:160]
    return ModelError(f"the graph cannot run on {shapes} ({reason}); export the model again")


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:160]
    return ModelError(f"the graph '{path}' cannot be read ({reason}); export the model again")
