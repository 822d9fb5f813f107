"""The layers of the package: a module imports only from its own line of the table or from lines above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ovseg

PACKAGE = Path(ovseg.__file__).parent
LAYERS = [
    {"errors", "escape", "files", "tensors", "assets", "config", "pooled", "_version", "_torchvision"},
    {
        "identity",
        "provenance",
        "weights",
        "hub",
        "network",
        "journal",
        "prefetch",
        "progress",
        "own_files",
        "checkpoints",
        "storage",
    },
    {"images", "vocabulary"},
    {"attention", "sam", "regions", "refine", "proposals", "examples"},
    {"encoders", "heads", "backends"},
    {"models"},
    {"runtimes"},
    {"result"},
    {"pipeline"},
    {"large"},
    {"concepts"},
    {"bank"},
    {"discovery"},
    {"video"},
    {"evaluation"},
    {"training"},
    {"serve"},
    {"distributed"},
    {"api", "cli", "__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NAMES = {
    ".".join(("ovseg", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """Modules of ovseg that a module imports anywhere, inside functions too; those for types alone are left out."""
    tree = ast.parse(NAMES[name].read_text())
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ovseg"):
            assert node.module is not None
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in NAMES else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in NAMES}
    return found - {name, "ovseg"}


def room(name: str) -> str:
    """The part of the package that a module lies in: a file, or a folder."""
    return name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize("name", NAMES)
def test_a_module_imports_only_from_its_layer_or_above(name: str) -> None:
    below = {other for other in imports(name) if LEVEL[room(other)] > LEVEL[room(name)]}
    assert not below, f"{name} must not import {below}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    edges = {name: imports(name) for name in NAMES}
    for start in edges:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += edges[name]
        assert start not in seen, f"{start} imports itself by way of others: look at {sorted(edges[start] & seen)}"
