"""Who may ask, and how much may come."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.serving import b64, make_client, needs_server, png, refused

needs_server()
ASKED = {"image": b64(png()), "labels": ["red"]}


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize("sent", ["Bearer sesame", "bearer sesame", basic("sesame")])
def test_the_token_opens(sent: str) -> None:
    client = make_client(token="sesame")
    assert client.post("/segment", json=ASKED, headers={"Authorization": sent}).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer sesam",
        "Bearer sésame",
        "sesame",
        basic("open"),
        "Basic %%%",
        "Digest sesame",
    ],
)
def test_anything_else_does_not(sent: str) -> None:
    client = make_client(token="sesame")
    for place in ("/segment", "/metrics", "/openapi.json", "/anything"):
        answer = client.post(place, json=ASKED, headers={"Authorization": sent.encode("latin-1")})
        refused(answer, 401, "expected the token")
    assert "Basic" in answer.headers["WWW-Authenticate"]


def test_health_needs_no_token() -> None:
    assert make_client(token="sesame").get("/health").status_code == 200


def test_a_body_is_refused_by_its_stated_length_or_while_it_comes() -> None:
    client = make_client(limits={"max_bytes": 1000})
    refused(client.post("/segment", content=b"x" * 1001), 413, "more than the limit of 1000 bytes")
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 300

    app, sent = client.app, {"Content-Type": "application/json", "Content-Length": "12"}  # a lie

    async def ask() -> list[Any]:
        answers: list[Any] = []
        chunks = endless()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": next(chunks), "more_body": True}

        async def send(message: Any) -> None:
            answers.append(message)

        headers = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
        scope = {"type": "http", "method": "POST", "path": "/segment", "headers": headers, "query_string": b""}
        await app(scope, receive, send)
        return answers

    import asyncio

    start, body = asyncio.run(ask())
    assert start["status"] == 413 and b"limit of 1000 bytes" in body["body"] and read == 4


def test_large_bodies_on_their_way_at_once_are_bounded() -> None:
    import asyncio

    app = make_client(limits={"max_bytes": 1000}).app

    async def ask(number: int, statuses: list[int]) -> None:
        parts = [b"x" * 900]

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.sleep(0.2)  # the rest is late
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.request", "body": parts.pop(), "more_body": True}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/segment", "headers": headers, "query_string": b""}
        await app(scope, receive, send)

    async def ask_all(count: int) -> list[int]:
        statuses: list[int] = []
        await asyncio.gather(*(ask(number, statuses) for number in range(count)))
        return sorted(statuses)

    assert asyncio.run(ask_all(10)) == [422] * 8 + [429] * 2  # 8 times 1000 bytes, 900 each
    assert asyncio.run(ask_all(8)) == [422] * 8  # and there is room again


def test_a_web_socket_is_closed_at_once() -> None:
    from starlette.websockets import WebSocketDisconnect

    client = make_client(token="sesame")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/anything"):
        pass


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "9" * 40, "٣"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    headers = {"Content-Length": length.encode("utf-8"), "Content-Type": b"application/json"}
    refused(make_client().post("/segment", content=b"{}", headers=headers), 422, "Content-Length must be a number")


def test_only_names_of_this_machine_are_answered_where_it_is_its_own() -> None:
    client = make_client(hosts=("127.0.0.1", "[::1]"))
    assert client.get("/health", headers={"Host": "127.0.0.1:8000"}).status_code == 200
    assert client.get("/health", headers={"Host": "[::1]"}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "evil.example:8000"):
        refused(client.get("/health", headers={"Host": host}), 403, "expected a call to 127.0.0.1")


def test_a_page_of_another_site_may_send_nothing() -> None:
    client = make_client()
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    refused(client.post("/segment", json=ASKED, headers=headers), 403, "another site")
    answer = client.post("/segment", json=ASKED, headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_headers_that_name_other_clients_or_paths_change_nothing() -> None:
    client = make_client(token="sesame")
    tricks = {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/health", "X-HTTP-Method-Override": "GET"}
    refused(client.post("/segment", json=ASKED, headers=tricks), 401, "token")
    for path in ("/health/../segment", "//segment", "/health/", "/health%2f..%2fsegment"):
        assert client.post(path, json=ASKED).status_code == 401
