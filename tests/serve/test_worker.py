"""The queue before the model: full, left by a client, too slow, and stopped."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from helpers.serving import b64, make_client, needs_server, png, refused

from ovseg.serve.refusals import ClientGone, Refusal
from ovseg.serve.worker import Worker, wait_for

needs_server()
ASKED = {"image": b64(png()), "labels": ["red"]}


class Busy:
    """A call that takes until it is let go."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.end.wait(20)
        return "done"


async def never() -> None:
    await asyncio.Event().wait()


def test_calls_run_one_after_the_other_in_one_thread() -> None:
    worker, threads = Worker(10), []
    futures = [
        worker.submit(lambda number=number: (threads.append(threading.get_ident()), number)[1])
        for number in range(10)
    ]
    assert [future.result(10) for future in futures] == list(range(10)) and len(set(threads)) == 1
    worker.close()
    assert worker.taken == 0
    with pytest.raises(Refusal, match="this server is stopping") as refusal:
        worker.submit(lambda: None)
    assert refusal.value.status == 503 and worker.taken == 0


def test_a_full_queue_refuses_and_a_place_is_free_again() -> None:
    worker, busy = Worker(2), Busy()
    first = worker.submit(busy)
    assert busy.begun.wait(10)
    waiting = worker.submit(lambda: None)
    with pytest.raises(Refusal, match="fewer than 2 requests at once"):
        worker.submit(lambda: None)
    assert waiting.cancel() and worker.taken == 1
    later = worker.submit(lambda: "later")
    busy.end.set()
    assert (first.result(10), later.result(10)) == ("done", "later")
    worker.close()


def test_a_failed_call_frees_its_place() -> None:
    worker = Worker(1)
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 / 0).result(10)
    worker.close()
    assert worker.taken == 0


def test_who_waits_too_long_or_leaves_gives_up_its_place() -> None:
    async def at_once() -> None:
        return None

    worker, busy = Worker(3), Busy()
    first = worker.submit(busy)
    assert busy.begun.wait(10)
    with pytest.raises(Refusal, match=r"an answer within 0.01 seconds") as refusal:
        asyncio.run(wait_for(worker.submit(lambda: None), gone=never, seconds=0.01))
    assert refusal.value.status == 503 and worker.taken == 1
    with pytest.raises(ClientGone):
        asyncio.run(wait_for(worker.submit(lambda: None), gone=at_once, seconds=10))
    assert worker.taken == 1 and not first.done()
    busy.end.set()
    assert asyncio.run(wait_for(first, gone=never, seconds=10)) == "done"
    worker.close()


def test_a_full_server_answers_429_before_it_reads() -> None:
    client, busy = make_client(limits={"queue": 1}), Busy()
    client.app.state.service.worker.submit(busy)
    answer = client.post("/segment", content=b"not even read")
    refused(answer, 429, "all places are taken; try again")
    assert answer.headers["Retry-After"] == "1"
    busy.end.set()


def test_a_request_that_takes_too_long_is_given_up() -> None:
    client, busy = make_client(limits={"seconds": 0.05}), Busy()
    client.app.state.service.worker.submit(busy)
    refused(client.post("/segment", json=ASKED), 503, "within")
    assert client.app.state.service.worker.taken == 1
    busy.end.set()


def test_a_request_that_does_not_arrive_in_time_is_given_up() -> None:
    client, sent = make_client(limits={"seconds": 0.05}), []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/segment", "headers": headers, "query_string": b""}
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 408 and b"did not arrive within 0.05 seconds" in sent[1]["body"]
    assert client.app.state.service.worker.taken == 0


def test_a_client_that_leaves_frees_its_place_and_is_counted() -> None:
    client, busy = make_client(limits={"queue": 2}), Busy()
    service = client.app.state.service
    service.worker.submit(busy)
    assert busy.begun.wait(10)
    taken: list[int] = []
    coming: list[Any] = [{"type": "http.request", "body": json.dumps(ASKED).encode(), "more_body": False}]

    async def receive() -> Any:
        if coming:
            return coming.pop(0)
        taken.append(service.worker.taken)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/segment", "headers": headers, "query_string": b""}
    asyncio.run(client.app(scope, receive, send))
    assert taken == [2] and service.worker.taken == 1 and service.photos.misses == 0
    busy.end.set()
    assert 'ovseg_requests_total{path="/segment",status="499"} 1' in client.get("/metrics").text


def test_a_server_that_is_stopped_finishes_what_it_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from ovseg.serve.run import Server, listen

    client, busy = make_client(), Busy()
    service = client.app.state.service
    segment = service.segment
    monkeypatch.setattr(service, "segment", lambda *given: (busy(), segment(*given))[1])
    server, bound = Server(client.app, service), listen("127.0.0.1", 0)
    running = threading.Thread(target=server.run, args=([bound],))
    answers: list[Any] = []
    url = f"http://127.0.0.1:{bound.getsockname()[1]}/segment"
    running.start()
    while not server.started:
        time.sleep(0.01)
    asking = threading.Thread(target=lambda: answers.append(httpx.post(url, json=ASKED, timeout=20)))
    asking.start()
    assert busy.begun.wait(10)
    server.should_exit = True
    time.sleep(0.2)
    assert running.is_alive()
    busy.end.set()
    asking.join(20)
    running.join(20)
    assert answers[0].status_code == 200 and answers[0].json()["labels"] == ["red"]
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, json=ASKED)
