"""Options that many commands have: which model, with which weights, on which device, in which runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[str, typer.Option(help="A name from 'ovseg models'.")]
Weights = Annotated[Path | None, typer.Option(help="Folder with the model's weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Runtime = Annotated[
    str, typer.Option(help="On the CPU: torch, openvino, onnx, auto, or a folder of 'ovseg export'.")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory that it may take beyond the model, such as 1GB; less is done at once. Not for photos read by "
        "windows."
    ),
]
