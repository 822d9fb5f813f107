"""``--ray``: a command's work on many machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from ovseg.cli.jobs import Job
    from ovseg.distributed.pool import Make
    from ovseg.errors import ClusterError

T = TypeVar("T")
A = TypeVar("A")

_OPTION = "--ray"


def _checked(address: str | None) -> str | None:
    from ovseg.distributed import check_address

    return address and check_address(address)


RayAddress = Annotated[
    str | None,
    typer.Option(
        _OPTION,
        metavar="[ADDRESS]",
        callback=_checked,
        help="Share the work out: over the processors here, or over a Ray cluster (auto, or HOST:PORT).",
    ),
]


class WithRay(TyperCommand):
    """A command with ``--ray``, whose address may be left out at the end and before another option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments as typer reads them, with the address in its place."""
        from ovseg.distributed import ALONE

        ends = args.index("--") if "--" in args else len(args)
        args = [
            f"{_OPTION}={ALONE}"
            if each == _OPTION and place < ends and _is_option([*args, "-"][place + 1])
            else each
            for place, each in enumerate(args)
        ]
        return super().parse_args(ctx, args)


def _is_option(argument: str) -> bool:
    return argument.startswith("-")


def over(
    address: str,
    make: Make[T, A],
    items: Sequence[T],
    *,
    gpu: bool,
    at_once: int = 1,
) -> Iterator[A | ClusterError]:
    """The answer for each of ``items``, in order, from the workers of a cluster; see ``distributed.spread``."""
    from ovseg.distributed import joined, spread, worker_threads
    from ovseg.progress import remark

    with joined(address) as ray:
        yield from spread(ray, make, items, threads=worker_threads(), gpu=gpu, at_once=at_once, tell=remark)


def refuse_copies(jobs: Sequence[Job]) -> None:
    """Refuse what is no file or object that all machines see.

    Raises:
        ImageError: an image is standard input or behind an address on the web.
    """
    from ovseg.errors import ImageError

    for job in jobs:
        if job.copy is not None and job.copy.stored is None:
            raise ImageError(
                f"expected files that all machines see with --ray, got '{job.source}'; save it as a file"
            )
