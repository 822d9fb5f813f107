"""The HTTP API: every endpoint, and what each refusal looks like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from ovseg._version import __version__
from ovseg.errors import OvsegError
from ovseg.models.catalogue import list_models
from ovseg.serve import answers
from ovseg.serve.bodies import read_body, read_object
from ovseg.serve.guard import Guard
from ovseg.serve.label_studio import Backend
from ovseg.serve.options import Access, Limits
from ovseg.serve.refusals import ClientGone, Refusal, sentence, status_of
from ovseg.serve.requests import Example, SearchRequest, SegmentRequest, SelectRequest, checked
from ovseg.serve.schema import body_of, with_components
from ovseg.serve.service import Service
from ovseg.serve.worker import wait_for

AnswerT = TypeVar("AnswerT")
_TITLE = "ovseg"
_ABOUT = "Segment any photo by words. Photos are kept by their content: name one by 'photo' to ask again."


def create_app(service: Service) -> FastAPI:
    """The application; its lifetime ends the worker, which finishes what it accepted.

    Args:
        service: what answers.
    """

    @asynccontextmanager
    async def lifetime(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    # the pages that FastAPI shows a schema by fetch their program from the web
    app = FastAPI(
        title=_TITLE, version=__version__, description=_ABOUT, docs_url=None, redoc_url=None, lifespan=lifetime
    )
    _add_segmenting(app, service)
    _add_facts(app, service)
    _add_label_studio(app, service)
    _add_refusals(app)
    with_components(app, Example)
    places = {getattr(route, "path", "") for route in app.routes}
    app.add_middleware(
        Guard, access=service.access, max_bytes=service.limits.max_bytes, metrics=service.metrics, places=places
    )
    return app


def make_service(
    segmenter: Any, *, access: Access | None = None, limits: Limits | None = None, bank: Path | None = None
) -> Service:
    """A service with the bank in a folder, if one is given.

    Raises:
        DatasetError, SpaceError: as ``ImageBank.open``.
    """
    from ovseg.bank import ImageBank

    opened = None if bank is None else ImageBank.open(bank, segmenter=segmenter)
    return Service(segmenter, access=access or Access(), limits=limits or Limits(), bank=opened)


class Deadline:
    """The seconds of one request, from its first byte to its answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self._end - time.monotonic())

    async def within(self, reading: Awaitable[AnswerT]) -> AnswerT:
        """What is read, if it comes in time.

        Raises:
            Refusal: it does not (408).
        """
        try:
            return await asyncio.wait_for(reading, self.left)
        except TimeoutError as error:
            raise Refusal(
                408, f"the request did not arrive within {self._seconds:g} seconds; send it again"
            ) from error


async def in_worker(service: Service, request: Request, call: Callable[[], AnswerT], *, seconds: float) -> AnswerT:
    """What ``call`` gives in the worker's thread, unless the client leaves; see ``wait_for``."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return await wait_for(service.worker.submit(call), gone=gone, seconds=seconds)


def _add_segmenting(app: FastAPI, service: Service) -> None:
    limits = service.limits

    async def read(request: Request, deadline: Deadline) -> tuple[dict[str, Any], bytes | None]:
        service.worker.check_room()
        return await deadline.within(read_body(request, max_bytes=limits.max_bytes))

    @app.post("/segment", openapi_extra=body_of(SegmentRequest), summary="Which of the labels each pixel shows")
    async def segment(request: Request) -> Response:
        deadline = Deadline(limits.seconds)
        fields, file = await read(request, deadline)
        asked = checked(SegmentRequest, fields)
        contrasts = asked.background if isinstance(asked.background, list) else []
        service.check_labels(asked.labels, contrasts, asked.examples)
        photo = await run_in_threadpool(service.photo, asked, file)
        shown = await run_in_threadpool(service.examples, asked.examples)

        def call() -> Response:
            return answers.segmented(service.segment(asked, photo, shown), asked.format, mark=photo.mark)

        return await in_worker(service, request, call, seconds=deadline.left)

    @app.post("/select", openapi_extra=body_of(SelectRequest), summary="One thing, by pointing at it")
    async def select(request: Request) -> Response:
        deadline = Deadline(limits.seconds)
        fields, file = await read(request, deadline)
        asked = checked(SelectRequest, fields)
        photo = await run_in_threadpool(service.photo, asked, file)

        def call() -> Response:
            return answers.selected(service.select(asked, photo), asked.format, mark=photo.mark)

        return await in_worker(service, request, call, seconds=deadline.left)

    @app.post("/search", openapi_extra=body_of(SearchRequest), summary="The nearest photos of the bank")
    async def search(request: Request) -> Response:
        deadline = Deadline(limits.seconds)
        fields, file = await read(request, deadline)
        asked = checked(SearchRequest, fields)
        photo = await run_in_threadpool(service.photo, asked, file) if asked.text is None else None
        found = await in_worker(service, request, lambda: service.search(asked, photo), seconds=deadline.left)
        return JSONResponse({"found": found})


def _add_facts(app: FastAPI, service: Service) -> None:
    name = service.segmenter.config.name

    @app.get("/health", summary="Whether the server lives; needs no token")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": name, "version": __version__}

    @app.get("/models", summary="The model that answers, and all that could be served")
    def models() -> dict[str, Any]:
        return {"serving": name, "models": [asdict(info) for info in list_models()]}

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counts, as Prometheus reads them")
    async def metrics() -> str:
        return service.metrics_text()


def _add_label_studio(app: FastAPI, service: Service) -> None:
    backend = Backend(service)

    async def read(request: Request) -> dict[str, Any]:
        return read_object(await Deadline(service.limits.seconds).within(request.body()))

    @app.post("/setup", summary="Label Studio: a project begins")
    async def setup(request: Request) -> dict[str, str]:
        return backend.setup(await read(request))

    @app.post("/predict", summary="Label Studio: what the photos of tasks show")
    async def predict(request: Request) -> dict[str, Any]:
        asked = backend.read(await read(request))
        found = []
        for task in asked.tasks:  # each has the seconds of a request of its own

            def call(task: Any = task) -> dict[str, Any]:
                return backend.predict(asked, task)

            found.append(await in_worker(service, request, call, seconds=service.limits.seconds))
        return {"results": found, "model_version": backend.version}


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(OvsegError)
    async def refuse(_: Request, error: OvsegError) -> Response:
        status = status_of(error)
        headers = {"Retry-After": "1"} if status in {429, 503} else {}
        return JSONResponse({"error": sentence(error)}, status_code=status, headers=headers)

    @app.exception_handler(HTTPException)
    async def tell(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": sentence(error.detail)}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(ClientGone)
    @app.exception_handler(ClientDisconnect)
    async def forget(_: Request, error: Exception) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "this server failed; its log says why"}, status_code=500)
