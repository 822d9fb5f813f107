"""What ``ovseg serve`` does under load: many clients at once on this machine, and whether answers stay the same.

    .venv/bin/python evaluation/peers/serve_load.py [--clients 32] [--seconds 60] [--queue 16]

Starts a server of its own, asks every photo with every list of words one after the other, then by many clients at
once, each with the next question as soon as it has an answer (after a 429 it waits a quarter of a second). Printed:
requests, refusals (429), errors, latency of the answers, the server's memory before and after, and how many answers
differ from those of the serial run. Nothing here is asserted; machines differ.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = ("astronaut.jpg", "cat.jpg", "coffee.jpg", "flower.jpg", "temple.jpg")
WORDS = (["cat", "wall"], ["cup", "spoon", "table"], ["tree", "sky", "person"])
_PAUSE = 0.25  # seconds after a refusal


def ask(url: str, fields: dict[str, Any]) -> tuple[int, Any]:
    """Status and answer of one question."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/segment", json.dumps(fields).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def questions() -> list[dict[str, Any]]:
    """Every photo with every list of words."""
    photos = [base64.b64encode((EXAMPLES / name).read_bytes()).decode() for name in PHOTOS]
    return [{"image": photo, "labels": words} for photo in photos for words in WORDS]


def start(queue: int) -> tuple[subprocess.Popen[bytes], str]:
    """A server that answers, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ovseg", "serve", "--no-page", "--port", str(port), "--queue", str(queue)]
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
            return server, url
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def megabytes(process: int) -> float:
    """Memory of a process that is in use."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Load:
    """Clients that ask until the time is up.

    Args:
        url: of the server.
        asked: the questions.
        expected: the answer to each.
    """

    def __init__(self, url: str, asked: list[dict[str, Any]], expected: list[Any]) -> None:
        self._url, self._asked, self._expected = url, asked, expected
        self.statuses: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.different = 0

    def run(self, clients: int, seconds: float) -> None:
        """Ask by so many clients for so long."""
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._client, args=(number, end)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, seed: int, end: float) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            number = chance.randrange(len(self._asked))
            begun = time.monotonic()
            status, answer = ask(self._url, self._asked[number])
            self.statuses[status] += 1  # threads of CPython add one by one
            if status == 200:
                self.latencies.append(time.monotonic() - begun)
                self.different += answer != self._expected[number]
            elif status == 429:
                time.sleep(_PAUSE)


def main() -> None:
    """Start, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--queue", type=int, default=16)
    given = parser.parse_args()
    server, url = start(given.queue)
    try:
        asked = questions()
        expected = [ask(url, fields)[1] for fields in asked]
        before = megabytes(server.pid)
        load = Load(url, asked, expected)
        load.run(given.clients, given.seconds)
        after = megabytes(server.pid)
    finally:
        server.terminate()
        server.wait(60)
    others = sum(number for status, number in load.statuses.items() if status not in {200, 429})
    cuts = statistics.quantiles(load.latencies, n=100)
    print(
        f"{load.statuses.total()} requests of {given.clients} clients in {given.seconds:g} s, queue {given.queue}"
    )
    print(f"{load.statuses[200]} answers, {load.statuses[429]} times 429, {others} errors")
    print(f"latency of the answers: p50 {cuts[49]:.2f} s, p95 {cuts[94]:.2f} s")
    print(f"memory: {before:.0f} MB before, {after:.0f} MB after")
    print(f"{load.different} of {load.statuses[200]} answers differ from the serial ones")


if __name__ == "__main__":
    main()
