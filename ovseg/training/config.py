"""What a training run reads from YAML (``configs/training/*.yaml``): one class per recipe over a common base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ovseg.config import Config, choose, load_config, read_yaml
from ovseg.heads.registry import HeadConfig

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class MaskData(Config):
    """Images with masks.

    Attributes:
        protocol: the benchmark file that says how the folder is laid out and what its classes are called.
        path: the folder; relative paths start from the working directory.
        split: instead of the protocol's.
        folds: number of parts for cross-validation; image i is in part i mod folds.
        held_out: the part that is not trained on; None trains on all.
        held_out_classes: class names whose masks are not trained on.
        fold: of a few-shot protocol (PASCAL-5i, COCO-20i): its classes are held out as well.
    """

    protocol: str
    path: Path
    split: str | None = None
    folds: Positive = 1
    held_out: int | None = None
    held_out_classes: tuple[str, ...] = ()
    fold: int | None = None


class CellData(MaskData):
    """Images with masks for the alignment; the names of each entry compete only with one another.

    Attributes:
        weight: factor on their loss.
        every: only every n-th image is read.
    """

    weight: float = 1.0
    every: Positive = 1


class PseudoLabels(Config):
    """Images with label maps that another model wrote (``ovseg pseudo-label``).

    Attributes:
        pseudo_labels: the folder with ``labels/``, ``confidence/``, ``labels.json`` and ``manifest-*.jsonl``.
        images: folder that the paths of the manifests start from.
        weighted: whether the confidence of a pixel is the weight of its loss.
        keep: share of the pixels of each label, the most certain ones, that are trained on.
    """

    pseudo_labels: Path
    images: Path = Path(".")
    weighted: bool = True
    keep: Annotated[float, Field(gt=0, le=1)] = 1.0


class NamedData(Config):
    """Images with one name each, from a CSV with the columns ``file`` and ``name``.

    Attributes:
        table: the CSV; files are relative to its folder.
        weight: factor on their loss.
        cells: how many cells of an image, those that look most like its name, stand for the object.
    """

    table: Path
    weight: float = 0.3
    cells: Positive = 24


class Schedule(Config):
    """Optimisation with AdamW.

    Attributes:
        steps: optimiser steps.
        batch: examples per step, over all processes.
        learning_rate: the largest.
        kind: how the rate changes: one-cycle, or after a linear warm-up a cosine or (1 − t)^power to zero.
        warmup: steps of the linear warm-up of cosine and poly.
        power: of poly.
        evidence_rate: factor on the rate for scalar weights (evidences, gains).
        weight_decay: of the maps.
        accumulate: batches per step.
        clip: largest gradient norm.
        mixed_precision: of accelerate.
        ema: decay of the running mean of the weights, which is then what is validated and kept; 0 is none.
    """

    steps: Positive = 200
    batch: Positive = 1024
    learning_rate: float = 1e-3
    kind: Literal["one-cycle", "cosine", "poly"] = "one-cycle"
    warmup: Annotated[int, Field(ge=0)] = 0
    power: float = 0.9
    evidence_rate: float = 3.0
    weight_decay: float = 0.05
    accumulate: Positive = 1
    clip: float = 10.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    ema: Share = 0.0


class HeadSchedule(Schedule):
    """The same with defaults for trained heads on crops."""

    batch: Positive = 8
    kind: Literal["one-cycle", "cosine", "poly"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 10
    evidence_rate: float = 10.0


class CaptionSchedule(Schedule):
    """The same with defaults for captions, those of Talk2DINO."""

    batch: Positive = 128
    kind: Literal["one-cycle", "cosine", "poly"] = "cosine"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0


class Validation(Config):
    """When and on what the head is scored; the best is kept beside the last.

    Attributes:
        protocol, path, split: as of ``ovseg evaluate``.
        limit: only so many images, evenly spread.
        every: steps between two scores.
    """

    protocol: str
    path: Path
    split: str | None = None
    limit: Positive | None = None
    every: Positive = 100


class TrainingConfig(Config):
    """What every recipe has.

    Attributes:
        recipe: what is trained.
        model: model file whose frozen encoders are used.
        schedule: optimisation.
        validation: None trains without looking.
        save_every: steps between checkpoints.
        seed: of everything random.
        features: folder of cached features, which runs may share; None keeps them in ``out``.
        out: run folder.
    """

    recipe: str
    model: str = "mini"
    schedule: Schedule = Schedule()
    validation: Validation | None = None
    save_every: Positive = 50
    seed: int = 0
    features: Path | None = None
    out: Path = Path("runs/head")


class AlignmentConfig(TrainingConfig):
    """The recipe that makes ``mini``.

    Attributes:
        masks: images with masks; their cells are the training examples, those of the first give the principal axes.
        named: images with names, or none.
        principal: width that features are reduced to while training; the result is folded back.
        dropout: share of principal channels dropped per step.
        balance: cells are drawn with probability (size of their class)^−balance.
        coverage: share of a cell that one class must cover for the cell to count.
        evidence: starting weights of prototype, detection, presence, image prototype, and the two offsets.
        scale: starting scale of the trained map.
        export: file that the trained head is also written to.
    """

    recipe: Literal["alignment"] = "alignment"
    masks: tuple[CellData, ...] = Field(min_length=1)
    named: tuple[NamedData, ...] = ()
    principal: Positive = 512
    dropout: Share = 0.2
    balance: Share = 0.5
    coverage: Share = 0.55
    evidence: tuple[float, float, float, float, float, float] = (5.0, 10.0, 1.0, 1.0, 1.0, 0.5)
    scale: float = 10.0
    out: Path = Path("runs/mini")
    export: Path | None = None


class Augmentation(Config):
    """How a view of an image is changed, image and labels together; the first view is the image as it is.

    Attributes:
        flip: chance of a left-right flip.
        crop: smallest share of each side that is kept.
        scale: the kept part is resized by a factor up to this, or down to its inverse.
        photometric: largest relative change of brightness, contrast and saturation.
        mosaic: chance that the view is four images in one, two by two.
        mix: chance that patches of another image replace some of this one's (MixReorg, Cai et al., ICCV 2023).
    """

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    crop: Annotated[float, Field(gt=0, le=1)] = 0.6
    scale: Annotated[float, Field(ge=1)] = 1.5
    photometric: Share = 0.3
    mosaic: Annotated[float, Field(ge=0, le=1)] = 0.2
    mix: Annotated[float, Field(ge=0, le=1)] = 0.2


class MasksConfig(TrainingConfig):
    """A head trained with label maps: one's own masks, a benchmark's, or pseudo-labels.

    Attributes:
        head: kind and settings of the head.
        data: where the label maps come from; a step draws from one of them, in turn.
        views: cached versions of every image; the first is the image itself.
        augmentation: how the others differ.
        crop: (rows, columns) of cells of a training example; smaller images are taken whole.
        phrases: names asked for at once; absent ones fill up those that are present.
        loss: softmax over the names asked for, or one binary question for each.
        balance: classes weigh (their share of the pixels)^−balance.
        cache: False runs the encoder at every step, which is slow and gives the same.
    """

    recipe: Literal["masks"] = "masks"
    head: HeadConfig
    data: tuple[MaskData | PseudoLabels, ...] = Field(min_length=1)
    views: Positive = 1
    augmentation: Augmentation = Augmentation()
    crop: tuple[Positive, Positive] = (16, 16)
    phrases: Positive = 32
    loss: Literal["softmax", "binary"] = "softmax"
    balance: Share = 0.5
    cache: bool = True
    schedule: HeadSchedule = HeadSchedule()


class CaptionsConfig(TrainingConfig):
    """A map from sentences to image features, trained with captions only (Talk2DINO).

    Attributes:
        head: kind ``textmap`` and its settings.
        table: CSV with the columns ``file`` and ``caption``; images are beside it or in ``images/``.
        held_out: share of the images, the last ones, kept for measuring retrieval.
    """

    recipe: Literal["captions"] = "captions"
    head: HeadConfig = HeadConfig(kind="textmap")
    table: Path
    held_out: Share = 0.1
    schedule: CaptionSchedule = CaptionSchedule()


CONFIGS: dict[str, type[TrainingConfig]] = {
    "alignment": AlignmentConfig,
    "masks": MasksConfig,
    "captions": CaptionsConfig,
}


def load_training(path: str | Path, *, overrides: dict[str, Any] | None = None) -> TrainingConfig:
    """The training file at ``path`` as the class of its recipe.

    Raises:
        ConfigError: the recipe or a key is unknown (the nearest is offered), or a value is ill-typed.
    """
    values = read_yaml(path)
    stated = values.get("recipe", "alignment") if isinstance(values, dict) else "alignment"
    recipe = str((overrides or {}).get("recipe", stated))
    return load_config(choose(f"recipe in '{path}':", recipe, CONFIGS), path, overrides=overrides)
