"""The page at ``/`` of the server's application."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from ovseg.errors import require
from ovseg.serve.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

_HOUR = 3600
_FORBIDDEN = re.compile(r"/gradio_api/(proxy=|file=/*https?:)", re.IGNORECASE)
_CSS = """
.gradio-container { width: 100%; max-width: 1280px !important; margin: 0 auto !important; }
footer { display: none !important; }
@media (max-width: 600px) { .gradio-container main { padding: 12px !important; } }
"""


def mount_page(app: FastAPI, service: Service) -> None:
    """Show the page at ``/`` of ``app``, whose own paths come first.

    Raises:
        MissingDependencyError: gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gradio = require("gradio", extra="serve")
    _fetch_nothing()
    blocks = build_page(service)
    blocks.queue(max_size=4 * service.limits.queue, default_concurrency_limit=service.limits.queue)
    system = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=gradio.themes.Base(primary_hue="blue", **system),
        css=_CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=service.limits.max_bytes,
    )
    app.add_middleware(_Local)


def build_page(service: Service) -> Any:
    """The three tabs."""
    import gradio as gr

    from ovseg.serve.page.banks import BanksTab
    from ovseg.serve.page.compare import CompareTab
    from ovseg.serve.page.desk import Desk
    from ovseg.serve.page.words import Session, WordsTab

    desk = Desk(service)
    name = service.segmenter.config.name
    with gr.Blocks(title="ovseg", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as blocks:
        gr.Markdown(f"# ovseg\nSegment any photo by words; `{name}` answers, on this machine.")
        session = gr.State(Session(), time_to_live=_HOUR)
        with gr.Tab("Words"):
            WordsTab(desk, session)
        with gr.Tab("Folder"):
            BanksTab(desk, session)
        with gr.Tab("Compare"):
            CompareTab(desk)
    return blocks


class _Local:
    """ASGI middleware: the ways of gradio to fetch addresses for a client do not exist here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _FORBIDDEN.search(scope["path"]):
            from fastapi.responses import JSONResponse

            refusal = JSONResponse({"error": "this server fetches no address"}, status_code=403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _fetch_nothing() -> None:
    """A client may name an address where gradio expects a file that was uploaded; it is not fetched."""
    from gradio import processing_utils

    async def refuse(url: str) -> Any:
        raise ValueError("this server fetches no address")

    processing_utils.async_ssrf_protected_get = refuse
