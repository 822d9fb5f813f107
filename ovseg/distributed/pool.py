"""Items shared out over workers that open once what they need; a worker that is killed costs no answer.

A piece of work may be done twice: a worker can be killed after it has done it and before it has said so. What is
handed out must be safe to repeat, as files are that are written beside and renamed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ovseg._version import __version__
from ovseg.errors import ClusterError, OvsegError

T = TypeVar("T")
A = TypeVar("A")
Make = Callable[[], Callable[[list[T], bool], list[A]]]

_MOST_DEATHS = 3  # of workers over one item, which is then given up: it may be what kills them
_LEAD = 8  # tasks for each worker that may be done before the one whose answer is next: answers wait in memory
_PATIENCE = 15  # seconds without any worker until the user is told what is waited for


def spread(
    ray: Any,
    make: Make[T, A],
    items: Sequence[T],
    *,
    threads: int,
    gpu: bool = False,
    at_once: int = 1,
    tell: Callable[[str], None],
) -> Iterator[A | ClusterError]:
    """The answer for each of ``items``, in their order, from as many workers as the cluster has room for.

    Args:
        ray: what ``joined`` gives.
        make: called once in each worker, in the folder of this process; returns the function that gets a few items,
            and whether a killed worker had them before, and gives an answer for each. Anything it holds is sent to
            the workers.
        threads: processors for each worker.
        gpu: give each worker a GPU, where the cluster has any.
        at_once: items that a worker gets together where it has a GPU; else it gets one after the other.
        tell: called with a sentence while there is no room for any worker.

    Returns:
        Answers; a ``ClusterError`` in place of that of an item over which three workers were killed.

    Raises:
        ClusterError: a machine lacks ovseg in this version, or the folder; or all workers are lost.
        OvsegError: what ``make`` or its function raised.
    """
    gpu = gpu and ray.cluster_resources().get("GPU", 0) >= 1
    step = at_once if gpu else 1  # the same few together as in one process: batches decide the last digits
    tasks = [_Task(start, list(items[start : start + step])) for start in range(0, len(items), step)]
    count = min(_room(ray, threads=threads, gpu=gpu), len(tasks))
    pool = _Pool(ray, make, tasks, count=count, threads=threads, gpu=gpu, tell=tell)
    try:
        yield from pool.in_order()
    finally:
        pool.close()


@dataclass(frozen=True)
class _Task:
    """Items that follow each other from number ``start`` on, and how many workers were killed over them."""

    start: int
    items: list[Any]
    deaths: int = 0

    def again(self) -> list[_Task]:
        """To be tried again; in the end item by item, so that one that kills its worker takes no other along."""
        deaths = self.deaths + 1
        if deaths == _MOST_DEATHS - 1:
            return [_Task(self.start + place, [item], deaths) for place, item in enumerate(self.items)]
        return [_Task(self.start, self.items, deaths)]


class _Pool:
    """The workers, what each is at, and what is still to do."""

    def __init__(
        self,
        ray: Any,
        make: Callable[[], Any],
        tasks: list[_Task],
        *,
        count: int,
        threads: int,
        gpu: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.ray, self.tell = ray, tell
        self.waiting = deque(tasks)
        resources = {"num_cpus": threads, "num_gpus": int(gpu)}
        self.needs = f"{threads} processor(s)" + (" and a GPU" if gpu else "")
        # Ray starts a killed worker again; its task goes to whoever is free, as its machine may be gone for good.
        remote = ray.remote(**resources, max_restarts=-1, max_task_retries=0)(_worker())
        self.given = (__version__, os.getcwd(), threads, [ray.put(make)])  # in a list: the worker gets it, not Ray
        self.workers = [remote.remote() for _ in range(count)]
        self.busy: dict[Any, tuple[Any, _Task | None]] = {}  # None: the worker opens what it needs
        self.idle: list[Any] = []  # workers that are too far ahead
        self.following = 0  # number of the item whose answer is next
        self.lead = _LEAD * count * max((len(task.items) for task in tasks), default=1)
        for worker in self.workers:
            self._await(worker)

    def in_order(self) -> Iterator[Any]:
        """The answer of each item, in order."""
        known: dict[int, Any] = {}
        for number, answer in self._answers():
            known[number] = answer
            while self.following in known:
                yield known.pop(self.following)
                self.following += 1

    def _answers(self) -> Iterator[tuple[int, Any]]:
        """Number and answer of each item, as they come."""
        told = False
        while self.waiting or any(task for _, task in self.busy.values()):
            while self.idle and self._may_hand_out():
                self._hand_out(self.idle.pop())
            if not self.busy:
                raise ClusterError("all workers are lost; what is done is kept, run again to go on")
            done, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_PATIENCE)
            if done:
                yield from self._settle(done[0])
            elif not told and not any(task for _, task in self.busy.values()):
                told = True
                self.tell(f"waiting for a worker; each needs {self.needs} of the cluster, and opens the model")

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            self.ray.kill(worker)

    def _settle(self, call: Any) -> Iterator[tuple[int, Any]]:
        """What a call gave; its worker gets the next task."""
        worker, task = self.busy.pop(call)
        try:
            answer = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OvsegError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError:  # the worker was killed
            if task is not None:  # else it will not come back
                self.tell("a worker was killed; what it was at is done again")
                yield from self._give_back(task)
                self._await(worker)
            return
        if task is not None and answer is None:
            self.waiting.appendleft(task)
            self._await(worker)
            return
        if task is not None:
            yield from zip(range(task.start, task.start + len(task.items)), answer, strict=True)
        elif answer is not None:
            raise ClusterError(answer)
        self.idle.append(worker)

    def _may_hand_out(self) -> bool:
        return bool(self.waiting) and self.waiting[0].start < self.following + self.lead

    def _hand_out(self, worker: Any) -> None:
        task = self.waiting.popleft()
        self.busy[worker.do.remote(task.items, task.deaths > 0)] = (worker, task)

    def _give_back(self, task: _Task) -> Iterator[tuple[int, ClusterError]]:
        for each in reversed(task.again()):
            if each.deaths < _MOST_DEATHS:
                self.waiting.appendleft(each)
            else:
                yield each.start, ClusterError(f"{_MOST_DEATHS} workers were killed over it; is memory short?")

    def _await(self, worker: Any) -> None:
        self.busy[worker.ready.options(max_task_retries=-1).remote(*self.given)] = (worker, None)


def _room(ray: Any, *, threads: int, gpu: bool) -> int:
    """How many workers the machines have room for; at least one, for which Ray may wait."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    each = [int(machine.get("CPU", 0) // threads) for machine in machines]
    if gpu:
        each = [min(most, int(machine.get("GPU", 0))) for most, machine in zip(each, machines, strict=True)]
    return max(1, sum(each))


def _worker() -> type:
    """The class of workers. It is made here, so that Ray sends its code and a machine without ovseg can say so."""

    class Worker:
        work: Any = None

        def ready(self, version: str, folder: str, threads: int, make: list[Any]) -> str | None:
            """Open what is needed; what is wrong with this machine, or None."""
            import os
            import platform

            machine = platform.node()
            try:
                from ovseg._version import __version__ as here
            except ImportError:
                here = "none"
            if here != version:
                return (
                    f"expected ovseg {version} on machine '{machine}', got {here}; install the same version with "
                    "ovseg[distributed] on all machines of the cluster"
                )
            try:
                os.chdir(folder)
            except OSError:
                return (
                    f"expected the folder '{folder}' on machine '{machine}', got none; --ray needs folders that "
                    "all machines share under the same path"
                )
            import ray
            import torch

            torch.set_num_threads(threads)
            self.work = ray.get(make[0])()
            return None

        def do(self, items: list[Any], again: bool) -> list[Any] | None:
            """The answers for ``items``; None if this worker was killed, and started again, since it was ready."""
            return None if self.work is None else list(self.work(items, again))

    return Worker
