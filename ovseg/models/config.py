"""Model files (``configs/models/*.yaml``) and the builders that turn their encoder section into networks.

Adding a model is adding a file. Adding a family of encoders is adding a builder here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ovseg.assets import asset_names, find_asset
from ovseg.attention.registry import RECIPES, RecipeConfig
from ovseg.config import Config, load_config, parse_config
from ovseg.encoders.converter import ConverterConfig
from ovseg.encoders.structure import StructureConfig
from ovseg.errors import ConfigError, ModelError, did_you_mean
from ovseg.heads.registry import HeadConfig
from ovseg.regions.sources import RegionsConfig


class TextConfig(Config):
    """A text tower apart from the image network.

    Attributes:
        name: open_clip's name of the model that it is part of.
        weights: tag of the weights.
        repo: repository of the weights on the Hugging Face hub.
    """

    name: str
    weights: str = ""
    repo: str = ""


class EncoderConfig(Config):
    """Which networks a model is made of.

    Attributes:
        kind: name of a builder, such as ``embedded``.
        name: the network's name within that kind.
        weights: file, folder or tag of the weights; what it means depends on the kind.
        repo: repository of the weights on the Hugging Face hub.
        sha256: checksum of each weights file, by file name.
        random_weights: build the networks without weights, for tests and timing.
        position_offset: how a tower's positions are resized to another grid: None as its library does it, 0.1 as
            the released code of the recipes; see ``ovseg.encoders.tower.resize_positions``.
        norm_epsilon: what all layer normalisations of a tower add to the variance; None leaves what they have.
        exact_gelu: run a tower with GELU where its weights were trained with x·sigmoid(1.702x).
        recipe: what the last attention block of a tower does; None leaves it as it was trained.
        structure: a vision-only encoder, for recipes that need one.
        regions: how the image is cut into parts, for recipes that need them.
        converter: two small layers that say which cells belong together and which show an object.
        text: the text tower, for kinds whose image network has none.
    """

    kind: str
    name: str
    weights: str = ""
    repo: str = ""
    sha256: dict[str, str] = Field(default={})
    random_weights: bool = False
    position_offset: float | None = Field(default=None, ge=0, lt=1)
    norm_epsilon: float | None = Field(default=None, gt=0)
    exact_gelu: bool = False
    recipe: RecipeConfig | None = None
    structure: StructureConfig | None = None
    regions: RegionsConfig | None = None
    converter: ConverterConfig | None = None
    text: TextConfig | None = None


class InputConfig(Config):
    """How an image is brought to the encoder.

    Attributes:
        short_side: pixels of the shorter side after resizing.
        max_long_side: the longer side is at most this many pixels; strips run in windows of it instead.
        window: side of the windows that larger inputs are cut into; None runs the whole image at once.
        overlap: pixels that neighbouring windows share.
        splice: "scores" averages the windows' score maps, "features" their features to unit vectors, "pixels" their
            score maps once each is enlarged to its pixels; windows then begin anywhere and sizes are not rounded to
            whole patches, as in released code.
        resampling: how the image is resized: None as the encoder's library does it, "opencv" bilinear without
            antialiasing.
    """

    short_side: int = 448
    max_long_side: int = 1344
    window: int | None = None
    overlap: int = 112
    splice: Literal["scores", "features", "pixels"] = "scores"
    resampling: Literal["opencv"] | None = None

    @property
    def on_one_grid(self) -> InputConfig:
        """The same sizes with features that lie on one grid, for what needs to know where a cell is."""
        return self.model_copy(update={"splice": "scores"}) if self.splice == "pixels" else self


class ScoringConfig(Config):
    """In which order phrases become labels.

    Attributes:
        over: "classes" takes the best phrase of each class first, and then softmax over classes; "phrases" takes
            softmax over all phrases first, so that a class with many shares its probability among them; "each" asks
            of each class alone whether it is there (sigmoid), for models that answer with masks: what is none of
            the labels is then told by ``background.threshold``, and "auto" asks no contrast phrases.
        at: "cells" computes probabilities where the features are, and enlarges them; "pixels" enlarges the cosines.
    """

    over: Literal["classes", "phrases", "each"] = "classes"
    at: Literal["cells", "pixels"] = "cells"


class BackgroundConfig(Config):
    """When a pixel belongs to none of the labels (``background="auto"`` or a list).

    Attributes:
        margin: none where s1·sqrt(s1−s2) of the two best probabilities is under this (ActiveSAM, 2026).
        threshold: none where the best probability is under this.
        objectness: none where the best probability is under this and the converter sees no object.
        area: labels whose share of all labelled pixels is not over this lose their pixels to the next class.
        presence: labels whose presence is under this are not painted.
        presence_slope, presence_offset: logistic calibration of a label's strongest evidence to its presence.
    """

    margin: float = 0.0
    threshold: float = 0.0
    objectness: float = 0.0
    area: float = 0.0
    presence: float = 0.0
    presence_slope: float = 1.0
    presence_offset: float = 0.0


class RefineConfig(Config):
    """Refinement of the class maps on the image.

    Attributes:
        default: whether it runs unless the caller says otherwise.
        method: a name of ``ovseg.refine.METHODS``.
        long_side: the refinement runs on the image shrunk to this long side.
        options: keyword arguments of the method; the rest keep its defaults.
    """

    default: bool = False
    method: str = "pamr"
    long_side: int = 480
    options: dict[str, Any] = Field(default={})


class CorrectionConfig(RegionsConfig):
    """Regions that are painted in their most frequent label; see ``ovseg.regions.majority_label``."""

    spare_lowest: bool = False


class AttentionConfig(Config):
    """The last attention of a SAM; see ``ovseg.sam.affinity``.

    Attributes:
        model: repository or folder of a SAM of transformers.
        above: cells whose cosine is not above this times the mean cosine take nothing from one another.
    """

    model: str = "facebook/sam-vit-base"
    above: float = Field(default=1.2, ge=0)


class GatherConfig(Config):
    """Features of the whole image gathered over cells that belong together, after its windows were put together.

    Attributes:
        regions: the cells of a region share their mean (LaVG).
        sharpness: each cell becomes a mean over the cells whose cosine S is over the mean of all, weighted by
            softmax((S − mean)·sharpness) (RADSeg's global aggregation).
        attention: each cell takes from others what the last attention of a SAM says (Trident's).
    """

    regions: RegionsConfig | None = None
    sharpness: float | None = Field(default=None, gt=0)
    attention: AttentionConfig | None = None

    @model_validator(mode="after")
    def _one_way(self) -> GatherConfig:
        ways = [name for name in ("regions", "sharpness", "attention") if getattr(self, name) is not None]
        if len(ways) != 1:
            got = " and ".join(ways) or "none"
            raise ValueError(f"expected one of 'regions', 'sharpness' and 'attention', got {got}; keep one")
        return self

    @property
    def sam(self) -> str:
        """The SAM that is asked, as of ``load_sam``; empty where none is."""
        if self.attention is not None:
            return self.attention.model
        return "" if self.regions is None else self.regions.model


class ObjectsConfig(Config):
    """How objects are found.

    Attributes:
        proposals: where they may be: "detector" asks the model's own, and for labels that it does not know the
            connected parts of the label map; "parts" asks those alone; "queries" those of a trained head of kind
            ``maskqueries``.
        masks: what cuts them out: "map" the label map inside their box, of queries their own masks, or the name of
            a SAM of ``ovseg.sam``, which is asked by box.
        closer: whether the detector also looks at a larger copy of the image, for small objects.
        most: at most so many of an image are cut out.
        least_score: those less sure are dropped.
        sharpen: objects at least this sure also correct the label map; None leaves it as it is.
    """

    proposals: Literal["detector", "parts", "queries"] = "parts"
    masks: str = "map"
    closer: bool = True
    most: int = Field(default=40, gt=0)
    least_score: float = Field(default=0.3, ge=0, le=1)
    sharpen: float | None = Field(default=None, ge=0, le=1)


class QualityConfig(Config):
    """How objects are found by ``quality``: "fast" in hardly more time than the labels, "best" with a SAM."""

    fast: ObjectsConfig = ObjectsConfig()
    best: ObjectsConfig = ObjectsConfig(masks="mobile-sam", sharpen=0.1)

    @property
    def least_score(self) -> float:
        """The lowest score that either quality reports."""
        return min(self.fast.least_score, self.best.least_score)

    @property
    def most(self) -> int:
        """The largest number of objects that either quality reports."""
        return max(self.fast.most, self.best.most)


class PruneConfig(Config):
    """Labels that the image as a whole does not suggest are left out (ActiveSAM, 2026).

    Attributes:
        percentile: labels above this percentile of the image's cosines stay.
        most: at most so many.
        least: at least so many; no vocabulary up to this size is cut.
    """

    percentile: float = Field(default=80.0, ge=0, le=100)
    most: int = Field(default=40, gt=0)
    least: int = Field(default=10, gt=0)


class WholeConfig(Config):
    """What the vector of the whole image says about phrases (CASS); the defaults are its values for PASCAL Context.

    Attributes:
        share: of the whole image's cosine in a logit.
        pull: share of the cells that are most like a phrase in its vector.
        distance: Ward's distance up to which phrases are of one kind; of a kind, only the likeliest is pulled.
    """

    share: float = Field(default=0.25, ge=0, le=1)
    pull: float = Field(default=0.04, ge=0, le=1)
    distance: float = Field(default=0.09, ge=0)


class AgainConfig(Config):
    """A second pass by the labels of the first (ResCLIP), for recipes that read labels.

    Attributes:
        least: pixels whose best class is less probable have no label in the second pass.
    """

    least: float = Field(default=0.25, ge=0, le=1)


class ModelConfig(Config):
    """One model: encoders, prompts, sizes, smoothing, background, licence.

    ``words`` names a list of ``prompts/words/``, which the classes of a benchmark are then asked by.
    ``parameters`` are millions. ``correction`` names regions that are painted in their most frequent label.
    ``gather`` changes the features of an image as a whole. ``again`` asks for a second pass.
    ``datasets`` holds, by benchmark, the constants that a paper changes for it, with dotted keys;
    ``for_benchmark`` applies them.
    """

    name: str
    summary: str
    encoder: EncoderConfig
    head: HeadConfig | None = None
    templates: str = "one"
    words: str = ""
    input: InputConfig = InputConfig()
    logit_scale: float = 1.0
    smoothing: float | None = None
    scoring: ScoringConfig = ScoringConfig()
    background: BackgroundConfig = BackgroundConfig()
    refine: RefineConfig = RefineConfig()
    prune: PruneConfig | None = None
    whole: WholeConfig | None = None
    gather: GatherConfig | None = None
    again: AgainConfig | None = None
    correction: CorrectionConfig | None = None
    objects: QualityConfig = QualityConfig()
    parameters: float
    megabytes: float
    license: str
    commercial: bool
    gated: bool = False
    source: str
    paper: str = ""
    datasets: dict[str, dict[str, int | float | bool | str | None]] = Field(default={})

    @model_validator(mode="after")
    def _all_have_what_they_need(self) -> ModelConfig:
        for name in ("smoothing", "gather"):
            if getattr(self, name) is not None and self.input.splice == "pixels":
                raise ValueError(f"{name} needs cells on one grid, got input.splice 'pixels'; remove one of them")
        recipe = "" if self.encoder.recipe is None else self.encoder.recipe.name
        if self.again is not None and not (recipe in RECIPES and RECIPES[recipe].labels):
            known = ", ".join(name for name in RECIPES if RECIPES[name].labels)
            raise ValueError(f"'again:' needs a recipe that reads labels ({known}), got '{recipe}'; change one")
        if self.background.objectness and self.encoder.converter is None:
            raise ValueError("background.objectness needs a section 'converter:' in 'encoder:', got none; add one")
        return self

    @model_validator(mode="before")
    @classmethod
    def _without_task(cls, values: Any) -> Any:
        """Run folders of earlier versions state the only task that there was."""
        if isinstance(values, dict) and values.get("task") == "segmentation":
            return {key: value for key, value in values.items() if key != "task"}
        return values


MODEL_FILE = "model.yaml"  # of a run folder


def read_model_config(name: str) -> ModelConfig:
    """The model file ``name``, or the YAML file at that path, or that of the run folder at that path.

    Raises:
        ModelError: there is no such model; the nearest name is offered.
        ConfigError: the file has a wrong key or value.
    """
    known = asset_names("configs/models")
    if name not in known and (Path(name) / MODEL_FILE).is_file():
        name = str(Path(name) / MODEL_FILE)
    if name not in known and not Path(name).is_file():
        raise ModelError(
            f"no model '{name}'{did_you_mean(name, known)} ovseg.list_models() shows all {len(known)}; "
            "or give the path of a model's .yaml file, or the folder of a finished training run"
        )
    path = find_asset("configs/models", name)
    return _beside(load_config(ModelConfig, path), path.parent)


def _beside(config: ModelConfig, folder: Path) -> ModelConfig:
    """``config`` with the files that its own file names found in the folder of that file."""
    changes: dict[str, Any] = {}
    if config.head is not None and config.head.weights:
        weights = str(folder / config.head.weights)
        changes["head"] = config.head.model_copy(update={"weights": weights})
    converter = config.encoder.converter
    if converter is not None and (folder / converter.file).is_file():
        moved = converter.model_copy(update={"file": str(folder / converter.file)})
        changes["encoder"] = config.encoder.model_copy(update={"converter": moved})
    return config.model_copy(update=changes)


HARNESS = (
    "templates",
    "words",
    "input",
    "logit_scale",
    "smoothing",
    "scoring",
    "background",
    "refine",
    "prune",
    "whole",
    "again",
    "correction",
)  # what a paper's way from an image to labels is made of, besides its networks


def for_benchmark(config: ModelConfig, benchmark: str, *, method: str | None = None) -> ModelConfig:
    """``config`` with the constants that a paper gives for ``benchmark``.

    Args:
        config: a model file.
        benchmark: name of a protocol.
        method: name of a recipe whose ``clip-b16-METHOD-paper`` file says all but the networks; None takes what
            ``config`` itself says.

    Raises:
        ModelError: there is no such method.
        ConfigError: no constants are stated for the benchmark, or a key is wrong; it is named.
    """
    if method is not None:
        stated = for_benchmark(read_model_config(f"clip-b16-{method}-paper"), benchmark)
        return config.model_copy(update={name: getattr(stated, name) for name in HARNESS})
    if benchmark not in config.datasets:
        known = ", ".join(config.datasets) or "none"
        raise ConfigError(
            f"model '{config.name}' states no constants of a paper for '{benchmark}'"
            f"{did_you_mean(benchmark, config.datasets)} It does for: {known}; use the setting 'shared', or "
            "'paper:METHOD' with the method of a -paper file"
        )
    values = config.model_dump()
    for dotted, value in config.datasets[benchmark].items():
        *sections, key = dotted.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return parse_config(ModelConfig, values, source=f"model '{config.name}' on '{benchmark}'")


def with_objects(config: ModelConfig, **fields: Any) -> ModelConfig:
    """``config`` with these fields in both parts of its section ``objects``.

    Raises:
        ConfigError: there is no such field, or it cannot be so.
    """
    values = {quality: {**part, **fields} for quality, part in config.objects.model_dump().items()}
    objects = parse_config(QualityConfig, values, source=f"objects of model '{config.name}'")
    return config.model_copy(update={"objects": objects})
