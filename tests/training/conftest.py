from __future__ import annotations

from pathlib import Path

import pytest
from helpers.training import write_masks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of three flat classes, with masks."""
    return write_masks(tmp_path / "data", seed=0, names=("sky", "road", "cat"))
