"""The sections of a model file besides its networks: sizes, rules and how objects are found."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ovseg.config import Config
from ovseg.regions.sources import RegionsConfig


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
        holes: what one label surrounds takes that label, where its area is at most this share of the label's.
        area: labels whose share of all labelled pixels is not over this lose their pixels to the next class.
        presence: labels whose presence is under this are not painted.
        presence_slope, presence_offset: logistic calibration of a label's strongest evidence to its presence.
    """

    margin: float = 0.0
    threshold: float = 0.0
    objectness: float = 0.0
    holes: float = Field(default=0.0, ge=0, le=1)
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
        borders_only: with ``pamr``, only pixels within about a cell of a border between classes are refined.
        options: keyword arguments of the method; the rest keep its defaults.
    """

    default: bool = False
    method: str = "pamr"
    long_side: int = 480
    borders_only: bool = False
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
            ``maskqueries``; "watershed" and "affinity" the connected parts, split where they are narrow or where
            their features differ; "cuts" cuts the image in parts without any word (LaVG's normalised cut), and
            "sam" takes the masks of a SAM at a grid of points and "universal" those of a Mask2Former, OneFormer or
            EoMT, whatever it calls them; all three are named by the label map.
        masks: what cuts them out: "map" the label map inside their box, or the masks that were proposed; or the
            name of a SAM of ``ovseg.sam``, which is asked by box. With "sam" and "universal", who proposes.
        points: side of the grid of points of "sam", 8 to 32; its time grows with the square.
        closer: whether the detector also looks at a larger copy of the image, for small objects.
        most: at most so many of an image are cut out.
        least_score: those less sure are dropped.
        sharpen: objects at least this sure also correct the label map; None leaves it as it is.
    """

    proposals: Literal["detector", "parts", "queries", "watershed", "affinity", "cuts", "sam", "universal"] = (
        "parts"
    )
    masks: str = "map"
    points: int = Field(default=8, ge=8, le=32)
    closer: bool = True
    most: int = Field(default=40, gt=0)
    least_score: float = Field(default=0.3, ge=0, le=1)
    sharpen: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _named_network(self) -> ObjectsConfig:
        if self.proposes_by_network and self.masks == "map":
            instead = "mobile-sam" if self.proposals == "sam" else "facebook/mask2former-swin-tiny-coco-panoptic"
            raise ValueError(
                f"proposals: {self.proposals} needs the name of a network, got masks: map; write masks: {instead}"
            )
        return self

    @property
    def proposes_by_network(self) -> bool:
        """Whether ``masks`` names the network that proposes, whose masks are final."""
        return self.proposals in {"sam", "universal"}


class BoxesConfig(Config):
    """What the boxes of a model's own detector add to the label of each cell; see ``pipeline.boxes.BoxEvidence``.

    Attributes:
        inside: what a label gains in a box of it, times the score of the box.
        least_score: boxes less sure say nothing.
        missed: how often a label that is there has no such box.
        shown: of the labels that are asked for and that the detector knows, how many an image shows.
    """

    inside: float = Field(default=2.5, ge=0)
    least_score: float = Field(default=0.25, ge=0, le=1)
    missed: float = Field(default=0.3, gt=0, le=1)
    shown: float = Field(default=5.0, gt=0)


class ColoursConfig(Config):
    """What the colours of pixels say of labels that name one; see ``pipeline.colours.ColourEvidence``.

    Attributes:
        gain: what a label loses where nothing of the thing has its colour.
        enough: the share of the thing from which on it loses nothing.
        reach: how far cells around a cell count as the same thing: standard deviation of a Gaussian, in cells.
    """

    gain: float = Field(default=10.0, ge=0)
    enough: float = Field(default=0.5, gt=0, le=1)
    reach: float = Field(default=1.0, ge=0)


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


class ExamplesConfig(Config):
    """How labels are known that are shown by pictures (``Concept.images``).

    Attributes:
        method: a name of ``ovseg.examples.METHODS``, or "trained" of a model whose head was trained to read shots.
        fusion: how words and pictures are put together by methods that do not weigh them themselves; a name of
            ``ovseg.examples.fusion.RULES``.
        beside: another name of ``METHODS``, half of whose answer counts; None for the method alone.
        cut_out: whether a SAM cuts out what a box or point shows; else methods are given the cells of the box or
            point, and trained heads are told which it is.
        masks: the name of a SAM of ``ovseg.sam`` that is shown where these labels are likely, and whose masks then
            sharpen what words and pictures say; None asks none.
        positions: so many directions, in which features differ by place alone, are taken out of them before
            pictures are compared; for transformers (INSID3 takes 500 of DINOv3-L's 1024, FROST 250). 0 for none.
    """

    method: str = "auto"
    fusion: str = "growing"
    beside: str | None = None
    cut_out: bool = True
    masks: str | None = None
    positions: int = Field(default=0, ge=0)


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


class RedrawConfig(Config):
    """The label map drawn anew by a SAM that is shown the connected parts of each class (Trident).

    Attributes:
        model: ``mobile-sam``, or repository or folder of a SAM; see ``ovseg.sam.load_sam``.
        least: pixels whose class is less probable belong to no part.
        area: smallest part that is shown, in pixels of the image.
        sure: masks count whose overlap with the truth the SAM expects to be over this.
        hint: factor from the probability of the class to the rough mask that is shown beside box and point, to SAMs
            that read masks.
    """

    model: str = "facebook/sam-vit-base"
    least: float = Field(default=0.1, ge=0, le=1)
    area: int = Field(default=900, gt=0)
    sure: float = Field(default=0.8, ge=0, le=1)
    hint: float = Field(default=0.005, ge=0)


class AgainConfig(Config):
    """A second pass by the labels of the first (ResCLIP), for recipes that read labels.

    Attributes:
        least: pixels whose best class is less probable have no label in the second pass.
    """

    least: float = Field(default=0.25, ge=0, le=1)
