"""What a call costs beside the bare networks, and beside what else could be installed: one table of ratios.

    .venv/bin/python evaluation/peers/speed.py [--rounds 5] [--photos 200] [--out docs/speed-table.md]

All in one run, on one machine. In every round each job runs once, so that a busy machine hurts all alike; a figure
is the median over rounds of the job's time over that of the best bare network in the same round. Processor time is
measured on one thread, and time on the clock on all; start-up and memory in a process for each job. A job that
takes over twenty seconds runs once. Prints a page in Markdown; nothing is asserted, as machines differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import contenders
import numpy as np
import torch
from contenders import ALL, CALLS, FIRST, FOLDERS, NETWORKS, PEERS, SIZES, STAGES, VARIANTS, Scene, told
from PIL import Image
from timing import EXAMPLES, Clock, Job, machine, rounds_of, run_python, seconds

import ovseg
from ovseg.images.load import load_image
from ovseg.images.resize import prepare
from ovseg.pipeline.encode import plan_input
from ovseg.runtimes.export import export_model

PROGRAM = Path(contenders.__file__)
PACKAGES = ("torch", "onnxruntime", "openvino", "transformers")
SLOW = 20.0  # seconds
PART = 40  # photos of a folder that a job does before the next has its turn
ALONE = [
    *FIRST,
    "`mini`, 0.3 MP, 5 labels",
    "`mini`, 0.3 MP, 1,000 labels",
    "`mini`, 12 MP, 5 labels",
    "`mini`, 0.3 MP, 5 labels, features by ONNX Runtime",
    "`mini`, 0.3 MP, 5 labels, features by OpenVINO",
    *(name for name in PEERS if "150" not in name),
]
COLUMNS = ("processor", "clock", "start", "memory")
Times = dict[str, list[float]]  # in every round, by name of the job


@dataclass
class Table:
    """Figures by row and column, each over the best of the bare networks."""

    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, column: str, times: Mapping[str, list[float]], best: str) -> None:
        """A column, or more of it, from figures of every round; ``best`` is what counts as 1."""
        for name, values in times.items():
            ratios = [value / one for value, one in zip(values, times[best], strict=False)]
            self.rows.setdefault(name, {})[column] = statistics.median(ratios)

    def __str__(self) -> str:
        heads = ("processor time, one thread", "on the clock, all threads", "start to first answer", "peak memory")
        lines = [f"| what | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
        for title, names in GROUPS.items():
            lines.append(f"| **{title}** |" + " |" * len(heads))
            for name in names:
                cells = [self.rows.get(name, {}).get(column) for column in COLUMNS]
                lines.append(f"| {name} | {' | '.join('–' if cell is None else shown(cell) for cell in cells)} |")
        return "\n".join(lines)


GROUPS = {
    "The networks alone, on pixels that are ready": list(FIRST),
    "Steps of a call": list(STAGES),
    "Whole calls, from a file to a result": [*CALLS, *VARIANTS],
    "What else could be installed, on random weights": list(PEERS),
    "A folder, for each photo": list(FOLDERS),
    "The program": ["`ovseg --help`"],
}


def note(what: str) -> None:
    """What is measured now, on standard error: it takes a while."""
    print(what, file=sys.stderr, flush=True)


def shown(ratio: float) -> str:
    """Three figures at most."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def best_of(times: Mapping[str, list[float]]) -> str:
    """The quickest of the bare networks."""
    return min((name for name in FIRST if name in times), key=lambda name: statistics.median(times[name]))


def make_scene(root: Path, *, photos: int) -> Scene:
    """The files that jobs read; see ``Scene``."""
    segmenter = ovseg.load("mini", device="cpu")
    exported = export_model(segmenter.model, root / "exported", only_images=True)
    exported.path("image").rename(root / "graph.onnx")
    photo = Image.open(EXAMPLES / "cat.jpg").convert("RGB")
    for name, size in SIZES.items():
        photo.resize(size).save(root / f"{name}.jpg", quality=90)
    small, spec = load_image(root / "0.3 MP.jpg"), segmenter.model.image.spec
    size, _ = plan_input(small.shape[:2], segmenter.config.input, multiple=spec.granularity)
    np.save(root / "pixels.npy", prepare(small, spec, size=size)[0].numpy())
    (root / "photos").mkdir()
    for number in range(photos):
        moved = np.roll(small, 3 * number, axis=1)
        Image.fromarray(moved).save(root / "photos" / f"{number:03d}.jpg", quality=90)
    return Scene(str(root), threads=torch.get_num_threads(), part=PART)


@torch.inference_mode()
def measure(scene: Scene, names: Iterable[str], *, rounds: int, clock: Clock) -> Times:
    """Every job on the threads of the scene."""
    jobs = {name: ALL[name](scene) for name in names}
    note(f"{len(jobs)} jobs on {scene.threads} threads")
    torch.set_num_threads(scene.threads)
    return rounds_of(jobs, rounds=rounds, clock=clock, slow=SLOW)


@torch.inference_mode()
def measure_folder(scene: Scene, best: str, *, photos: int, clock: Clock) -> Times:
    """A folder in several ways, and the best of the bare networks as often, part by part; all are warm by now."""
    name = best.removeprefix("the networks of `mini` in ")
    jobs: dict[str, Job] = {best: NETWORKS[name](scene, scene.part)}
    jobs |= {name: make(scene) for name, make in FOLDERS.items()}
    torch.set_num_threads(scene.threads)
    note(f"{photos} photos on {scene.threads} threads")
    return rounds_of(jobs, rounds=max(1, photos // scene.part), clock=clock, warm=0)


def measure_alone(scene: Scene, *, rounds: int, photos: int) -> tuple[Times, Times]:
    """Seconds until a process has answered once, and the peak of its memory."""
    note("jobs alone")
    starts: Times = {}
    peaks: Times = {}
    for _ in range(rounds):
        for name in ALONE:
            start = time.perf_counter()
            peaks.setdefault(name, []).append(float(run_python([str(PROGRAM), name, told(scene)])))
            starts.setdefault(name, []).append(time.perf_counter() - start)
        starts.setdefault("`ovseg --help`", []).append(seconds(lambda: run_python(["-m", "ovseg.cli", "--help"])))
    name, whole = "`mini`, side by side", replace(scene, part=photos)
    peaks[name] = [float(run_python([str(PROGRAM), name, told(whole)]))]
    return starts, peaks


def measure_all(scene: Scene, *, rounds: int, photos: int) -> Iterator[Table]:
    """The table, again after each part of it: a run that is stopped leaves what it has."""
    table = Table()
    names = [name for name in ALL if name not in FOLDERS]
    one = replace(scene, threads=1)
    times = measure(one, names, rounds=rounds, clock=time.process_time)
    table.add("processor", times, best := best_of(times))
    yield table
    table.add("processor", measure_folder(one, best, photos=PART, clock=time.process_time), best)
    yield table
    starts, peaks = measure_alone(scene, rounds=min(rounds, 2), photos=photos)
    table.add("start", starts, best_of(starts))
    table.add("memory", peaks, best_of(peaks))
    yield table
    times = measure(scene, names, rounds=rounds, clock=time.perf_counter)
    table.add("clock", times, best := best_of(times))
    yield table
    table.add("clock", measure_folder(scene, best, photos=photos, clock=time.perf_counter), best)
    yield table


def page(table: Table, scene: Scene, *, rounds: int, photos: int, load: float) -> str:
    """The page in Markdown."""
    told = f"""\
Printed by `evaluation/peers/speed.py`, part of `make benchmark`, in one run of {rounds} round{"s" * (rounds > 1)}.
{machine(PACKAGES, threads=scene.threads)}; load when it began: {load:.1f}.

All figures are multiples: 1 is the best of the bare networks of `mini` in that column, on the input of a photo of
640×480. Every job ran once in every round, and a figure is the median over rounds of the ratio within one; what
took over {SLOW:.0f} seconds ran once. Start-up is that of a process, to its first answer, and memory its peak. The
folder has {photos} photos of 640×480, with 5 labels; its rows are for one photo, but for memory. Photos of 0.3 and
12 megapixels (MP) show the same, so the networks see inputs of one size. Vectors of texts are known, but for
CLIPSeg, which does a pass for each label. What else could be installed has random weights and its own input size.
Two of its rows are networks alone, on pixels that are ready, and MobileSAM's encoder finds nothing by itself."""
    return f"# Speed: the whole table\n\n{told}\n\n{table}\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=200, help=f"in the folder; a multiple of {PART}")
    parser.add_argument("--out", type=Path, help="also write the page to this file")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as root:
        scene = make_scene(Path(root), photos=given.photos)
        for table in measure_all(scene, rounds=given.rounds, photos=given.photos):
            printed = page(table, scene, rounds=given.rounds, photos=given.photos, load=load)
            if given.out is not None:
                given.out.write_text(printed, encoding="utf-8")
    print(printed)


if __name__ == "__main__":
    main()
