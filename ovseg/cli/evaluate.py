"""``ovseg evaluate``: a model's scores under a published protocol."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.many import RayAddress, WithRay
from ovseg.cli.options import MaxMemory
from ovseg.cli.output import echo
from ovseg.escape import one_line

if TYPE_CHECKING:
    from ovseg.evaluation import EvaluationReport, RunOptions, Task


# 30 options are read more easily in groups; the groups are the headings of --help.
_TASK = "What is evaluated"
_MODEL = "The model"
_MORE = "Further measurements"
_INSTEAD = "Instead of an evaluation"
_RESULT = "The result"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(cls=WithRay)(evaluate)


def evaluate(
    benchmark: Annotated[str | None, typer.Argument(help="A protocol's name or YAML file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of the data set, also in storage, or hf://owner/name:split.", rich_help_panel=_TASK
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="all, present, present+N, or a subset.", rich_help_panel=_TASK)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only so many images, evenly spread.", rich_help_panel=_TASK)
    ] = None,
    setting: Annotated[str, typer.Option(help="shared, paper or paper:METHOD.", rich_help_panel=_TASK)] = "shared",
    split: Annotated[str | None, typer.Option(help="Instead of the protocol's.", rich_help_panel=_TASK)] = None,
    fold: Annotated[int | None, typer.Option(help="Fold of a few-shot protocol.", rich_help_panel=_TASK)] = None,
    orientation: Annotated[
        str | None,
        typer.Option(help="Masks of photos turned by EXIF lie on: upright, stored.", rich_help_panel=_TASK),
    ] = None,
    absent: Annotated[
        list[str] | None, typer.Option(help="A class that the data need not show.", rich_help_panel=_TASK)
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="Visual examples a class, drawn from the data set.", rich_help_panel=_TASK),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw of examples.", rich_help_panel=_TASK)] = None,
    names: Annotated[
        bool, typer.Option(help="Ask classes with examples by their words too.", rich_help_panel=_TASK)
    ] = True,
    model: Annotated[str, typer.Option(help="A name from 'ovseg models'.", rich_help_panel=_MODEL)] = "mini",
    weights: Annotated[
        Path | None, typer.Option(help="Folder with the model's weights.", rich_help_panel=_MODEL)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL)] = "auto",
    runtime: Annotated[
        str, typer.Option(help="torch, openvino, onnx, auto, or an export's folder.", rich_help_panel=_MODEL)
    ] = "torch",
    max_memory: MaxMemory = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.", rich_help_panel=_MODEL)] = 1,
    synonyms: Annotated[
        bool, typer.Option(help="Give the protocol's synonyms to the model.", rich_help_panel=_MODEL)
    ] = True,
    quality: Annotated[
        str | None, typer.Option(help="How objects are found: fast, best.", rich_help_panel=_MODEL)
    ] = None,
    least_score: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of AP: less sure objects are not asked for.", rich_help_panel=_MODEL),
    ] = 0.04,
    boundary: Annotated[bool, typer.Option(help="Measure boundaries as well.", rich_help_panel=_MORE)] = True,
    bank: Annotated[
        Path | None, typer.Option(help="A bank that must not hold the evaluated images.", rich_help_panel=_MORE)
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also corruptions and paraphrases.", rich_help_panel=_MORE)
    ] = False,
    clicks: Annotated[
        bool,
        typer.Option("--clicks", help="How many clicks select each segment.", rich_help_panel=_INSTEAD),
    ] = False,
    using: Annotated[
        str | None, typer.Option(help="Of --clicks, what answers: sam, features.", rich_help_panel=_INSTEAD)
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Fail below this report's mIoU.", rich_help_panel=_MORE)
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, help="How far below, in points of mIoU.", rich_help_panel=_MORE)
    ] = 1.0,
    check_data: Annotated[
        bool, typer.Option("--check-data", help="Only verify the data set.", rich_help_panel=_INSTEAD)
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two reports, A.json B.json.", rich_help_panel=_INSTEAD)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder for report and journal, also in storage; a killed run goes on.", rich_help_panel=_RESULT
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.", rich_help_panel=_RESULT)] = False,
    ray: RayAddress = None,
) -> None:
    """Evaluate a model on BENCHMARK, or compare two reports, or list the protocols.

    Example: ovseg evaluate voc20 --data VOCdevkit --model mini --out results/voc20
    """
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    if benchmark is None or data is None:
        _list_protocols(benchmark)
        return
    from ovseg.errors import ConfigError
    from ovseg.evaluation import RunOptions, Task
    from ovseg.evaluation.run.runner import evaluate_task
    from ovseg.storage import is_stored, synced

    options = RunOptions(
        batch_size=batch_size,
        split=split,
        fold=fold,
        shots=shots,
        seed=seed,
        names=names,
        orientation=orientation,
        absent=tuple(absent or ()),
        quality=quality,
        least_score=least_score,
        boundary=boundary,
        synonyms=synonyms,
        progress=True,
    )
    task = Task(benchmark, data, limit=limit, labels=labels, setting=setting)
    if check_data:
        _check(task, options, as_json=as_json)
        return
    if using is not None and not clicks:
        raise ConfigError(
            f"--using says what answers clicks, got '{using}' without --clicks; add it, or drop --using"
        )
    if ray is not None and (out is None or clicks or robustness):
        raise ConfigError(
            "expected --out with --ray, where the workers meet, and neither --clicks nor --robustness"
        )
    if ray is not None and is_stored(out):
        raise ConfigError(f"expected a local folder for --out with --ray, where the workers meet, got '{out}'")
    before = None if baseline is None else _report(baseline)  # a missing one is told before the run, not after
    load = partial(_load, model, weights=weights, device=device, runtime=runtime, max_memory=max_memory)
    with nullcontext(None) if out is None else synced(out) as folder:
        segmenter = load()
        if clicks:
            _clicks(segmenter, task, using=using, out=folder, options=options, as_json=as_json)
            return
        if ray is not None and folder is not None:
            from ovseg.cli.evaluate_many import evaluate_many

            gpu = not device.startswith("cpu")
            evaluate_many(ray, load, segmenter, task, out=folder, options=options, gpu=gpu)
        report = evaluate_task(segmenter, task, out=folder, bank=bank, options=options)
        echo(json.dumps(_summary(report)) if as_json else report.to_markdown())
        if robustness:
            _robustness(segmenter, task, out=folder, options=options, as_json=as_json)
    if before is not None:
        _hold_against(before, report, margin=margin / 100)


def _report(path: Path) -> EvaluationReport:
    from ovseg.evaluation import EvaluationReport

    return EvaluationReport.load(path)


def _hold_against(baseline: EvaluationReport, report: EvaluationReport, *, margin: float) -> None:
    from ovseg.evaluation import regression

    fall = regression(report, baseline, margin=margin)
    if fall is not None:
        echo(fall, err=True)
        raise typer.Exit(1)


def _robustness(segmenter: Any, task: Task, *, out: Path | None, options: RunOptions, as_json: bool) -> None:
    from ovseg.evaluation.run.robustness import measure_robustness

    table = measure_robustness(segmenter, task, out=None if out is None else out / "robustness", options=options)
    echo(json.dumps(table.to_dict()) if as_json else table.to_markdown())


def _clicks(
    segmenter: Any, task: Task, *, using: str | None, out: Path | None, options: RunOptions, as_json: bool
) -> None:
    from ovseg.evaluation.run.clicks import measure_clicks

    report = measure_clicks(segmenter, task, using=using, out=out, options=options)
    echo(json.dumps({"scores": report.scores, "manifest": report.manifest}) if as_json else report.to_markdown())


def _load(model: str, *, weights: Path | None, device: str, runtime: str, max_memory: str | None) -> Any:
    import ovseg
    from ovseg.evaluation.run.processes import Processes

    Processes.join()  # before the model is loaded: it decides which GPU "auto" means
    return ovseg.load(model, device=device, weights=weights, runtime=runtime, max_memory=max_memory)


def _compare(first: Path, second: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from ovseg.evaluation import compare_reports

    comparison = compare_reports(_report(first), _report(second))
    echo(json.dumps(asdict(comparison)) if as_json else comparison.to_markdown())


def _check(task: Task, options: RunOptions, *, as_json: bool) -> None:
    from ovseg.evaluation.data.check import check_all
    from ovseg.evaluation.run.task import open_task

    dataset, _ = open_task(task, options)  # refuses what an evaluation would
    found, problems, remarks = check_all(dataset, absent=options.absent)
    name = dataset.protocol.name
    if as_json:
        echo(json.dumps({"protocol": name, "problems": problems, "remarks": remarks, **found.to_dict()}))
    else:
        whole = [] if problems else [f"'{task.data}' is complete for '{name}'"]
        lines = [*(f"problem: {line}" for line in problems), *(f"note: {line}" for line in remarks), *whole]
        echo("\n".join([found.to_text(), *map(one_line, lines)]))
    if problems:
        raise typer.Exit(1)


def _list_protocols(benchmark: str | None) -> None:
    from ovseg.errors import ConfigError
    from ovseg.evaluation import load_protocol, protocol_names

    if benchmark is not None:
        load_protocol(benchmark)  # an unknown name is the first thing to say
        raise ConfigError(f"expected --data, the folder of the data set for '{benchmark}'; got none")
    for name in protocol_names():
        echo(f"{name:20s} {load_protocol(name).title}")


def _summary(report: EvaluationReport) -> dict[str, Any]:
    """The report without the rows of single images."""
    return {key: value for key, value in report.to_dict().items() if key not in {"images", "names"}}
