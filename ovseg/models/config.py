"""Model files (``configs/models/*.yaml``) and the builders that turn their encoder section into networks.

Adding a model is adding a file. Adding a family of encoders is adding a builder here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ovseg.assets import asset_names, find_asset
from ovseg.attention.registry import RECIPES, RecipeConfig
from ovseg.config import Config, load_config, parse_config
from ovseg.encoders.converter import ConverterConfig
from ovseg.encoders.reduction.registry import TokensConfig
from ovseg.encoders.structure import StructureConfig
from ovseg.errors import ConfigError, ModelError, did_you_mean
from ovseg.heads.registry import HeadConfig
from ovseg.models.sections import (
    AgainConfig,
    BackgroundConfig,
    BoxesConfig,
    ColoursConfig,
    CorrectionConfig,
    ExamplesConfig,
    GatherConfig,
    InputConfig,
    PruneConfig,
    QualityConfig,
    RedrawConfig,
    RefineConfig,
    ScoringConfig,
    WholeConfig,
)
from ovseg.regions.sources import RegionsConfig


class TextConfig(Config):
    """A text tower apart from the image network.

    Attributes:
        name: open_clip's name of the model that it is part of.
        weights: tag of the weights.
        repo: repository of the weights on the Hugging Face hub.
        whole: whether its image side makes the vector of the whole image, which is then in the space of the words.
    """

    name: str
    weights: str = ""
    repo: str = ""
    whole: bool = False


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
        tokens: how a tower runs on fewer tokens before its last block; None keeps all of them.
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
    tokens: TokensConfig | None = None
    recipe: RecipeConfig | None = None
    structure: StructureConfig | None = None
    regions: RegionsConfig | None = None
    converter: ConverterConfig | None = None
    text: TextConfig | None = None


class ModelConfig(Config):
    """One model: encoders, prompts, sizes, smoothing, background, licence.

    ``words`` names a list of ``prompts/words/``, which the classes of a benchmark are then asked by.
    ``broader`` names a table of ``prompts/vocabularies/broader.yaml``: "man" is then asked by "person" as well.
    ``parameters`` are millions. ``correction`` names regions that are painted in their most frequent label.
    ``gather`` changes the features of an image as a whole. ``again`` asks for a second pass.
    ``redraw`` lets a SAM draw the label map anew. ``boxes`` lets the model's detector say where labels are.
    ``colours`` looks for the colours that labels name ("red car") in the pixels.
    ``datasets`` holds, by benchmark, the constants that a paper changes for it, with dotted keys;
    ``for_benchmark`` applies them.
    """

    name: str
    summary: str
    encoder: EncoderConfig
    head: HeadConfig | None = None
    templates: str = "one"
    words: str = ""
    broader: str | None = None
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
    redraw: RedrawConfig | None = None
    correction: CorrectionConfig | None = None
    boxes: BoxesConfig | None = None
    colours: ColoursConfig | None = None
    objects: QualityConfig = QualityConfig()
    examples: ExamplesConfig = ExamplesConfig()
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
    head = config.head
    if head is not None and head.weights and (not head.source or (folder / head.weights).is_file()):
        changes["head"] = head.model_copy(update={"weights": str(folder / head.weights)})
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
    "redraw",
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


def with_examples(config: ModelConfig, **fields: Any) -> ModelConfig:
    """``config`` with these fields in its section ``examples``.

    Raises:
        ConfigError: there is no such field, or it cannot be so.
    """
    return _with_section(config, "examples", ExamplesConfig, fields)


def with_input(config: ModelConfig, **fields: Any) -> ModelConfig:
    """``config`` with these fields in its section ``input``; raises as ``with_examples``."""
    return _with_section(config, "input", InputConfig, fields)


def _with_section(config: ModelConfig, name: str, kind: type[Config], fields: Mapping[str, Any]) -> ModelConfig:
    values = {**getattr(config, name).model_dump(), **fields}
    section = parse_config(kind, values, source=f"{name} of model '{config.name}'")
    return config.model_copy(update={name: section})
