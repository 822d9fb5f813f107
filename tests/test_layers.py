"""The layers of the package: a module imports only from its own line of the table or from lines above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ovseg

PACKAGE = Path(ovseg.__file__).parent
LAYERS = [
    {"errors", "files", "tensors", "_version", "_torchvision"},
    {"images", "tiles", "assets", "config", "vocabulary"},
    {"encoders", "text", "attention", "heads", "regions", "refine", "paint", "matching", "windows"}
    | {"encoded", "scorer"},
    {"result", "segmenter"},
    {"bank"},
    {"evaluation"},
    {"training"},
    {"export", "serve", "distributed"},
    {"api", "cli", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
LAZY = {("segmenter", "bank")}  # Segmenter.with_concepts, inside the method


def imports(path: Path) -> set[str]:
    """Top-level modules of ovseg that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("ovseg.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_layer_or_above(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    below = {name for name in imports(path) if LEVEL[name] > LEVEL[own] and (own, name) not in LAZY}
    assert not below, f"{own} must not import {below}"
