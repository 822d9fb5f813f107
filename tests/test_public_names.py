"""The public face: names, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ovseg

PUBLIC = [
    "Concept",
    "ConceptSet",
    "ImageBank",
    "OvsegError",
    "SegmentationResult",
    "Segmenter",
    "VideoFrame",
    "__version__",
    "cosaliency",
    "discover",
    "evaluate",
    "learn_concepts",
    "list_models",
    "load",
    "propose",
    "segment",
    "segment_video",
]


def test_public_names_are_frozen() -> None:
    assert sorted(ovseg.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(ovseg, name) is not None


def test_importing_ovseg_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, ovseg; print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segmnet'"):
        ovseg.segmnet  # noqa: B018
