"""``ovseg serve``: a page and an HTTP API on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.options import Device, MaxMemory, ModelName, Runtime, Weights
from ovseg.cli.output import echo

_LOCAL = ("127.0.0.1", "localhost", "[::1]")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(serve)


def serve(
    model: ModelName = "mini",
    weights: Weights = None,
    device: Device = "auto",
    runtime: Runtime = "torch",
    max_memory: MaxMemory = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in; then give --token too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    folder: Annotated[Path | None, typer.Option(help="Photos that requests may name by path; else none.")] = None,
    bank: Annotated[Path | None, typer.Option(help="A bank that requests may search.")] = None,
    token: Annotated[str | None, typer.Option(help="What clients must send.", envvar="OVSEG_TOKEN")] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="The page at /, besides the API.")] = True,
    max_mb: Annotated[float, typer.Option(help="Refuse larger requests.")] = 20,
    max_pixels: Annotated[int, typer.Option(help="Refuse larger photos.")] = 50_000_000,
    max_labels: Annotated[int, typer.Option(help="Refuse longer lists of labels.")] = 1000,
    seconds: Annotated[float, typer.Option(help="Give up a request after so long, waiting included.")] = 60,
    queue: Annotated[int, typer.Option(help="Requests that may wait; further ones get 429.")] = 16,
    cache_photos: Annotated[int, typer.Option(help="Encoded photos that are kept for further questions.")] = 32,
    cache_mb: Annotated[int, typer.Option(help="Memory that they may take.")] = 512,
) -> None:
    """Answer requests with one model, and show a page to try it; needs pip install 'ovseg\\[serve]'.

    Example: ovseg serve --folder photos/
    """
    from ovseg.errors import ConfigError, require

    for name in ("uvicorn", "fastapi", "python_multipart", *(("gradio",) if page else ())):
        require(name, extra="serve")
    import ovseg
    from ovseg.serve.app import create_app, make_service
    from ovseg.serve.options import Access, Limits
    from ovseg.serve.run import Server, listen

    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--folder must be a folder, got '{folder}'; give one that is there")
    limits = Limits(
        max_bytes=int(max_mb * 2**20),
        max_pixels=max_pixels,
        max_labels=max_labels,
        seconds=seconds,
        queue=queue,
        cache_photos=cache_photos,
        cache_bytes=cache_mb * 2**20,
    )
    hosts = tuple(sorted({*_LOCAL, host})) if host in _LOCAL else None
    bound = listen(host, port)  # a port that is taken is told before the model is loaded
    segmenter = ovseg.load(model, device=device, weights=weights, runtime=runtime, max_memory=max_memory)
    access = Access(folder=folder, token=token, hosts=hosts)
    service = make_service(segmenter, access=access, limits=limits, bank=bank)
    app = create_app(service)
    if page:
        from ovseg.serve.page.mount import mount_page

        mount_page(app, service)
    echo(f"{segmenter.config.name} answers at http://{host}:{port}/; Ctrl-C stops it")
    if hosts is None and token is None:
        echo("anybody who reaches this machine may ask: give --token, or leave out --host", err=True)
    Server(app, service).run(sockets=[bound])
