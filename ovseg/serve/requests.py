"""What a client may ask, as pydantic models; they are also what the OpenAPI document shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ovseg.serve.refusals import Refusal

Format = Literal["json", "png", "overlay", "coco", "geojson", "rle"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2)]
Box = Annotated[list[Number], Field(min_length=4, max_length=4)]
_MOST_POINTS = 1000
ModelT = TypeVar("ModelT", bound=BaseModel)


class PhotoFields(BaseModel):
    """A photo: one of the three, or the part ``file`` of a form."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = Field(default=None, description="The file in base64.")
    path: str | None = Field(default=None, description="A file inside the folder that the server was started with.")
    photo: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of a file that was sent before; answers name it.",
    )


class Example(PhotoFields):
    """A photo that shows a label; without a place, what stands out most is taken."""

    label: str
    box: Box | None = Field(default=None, description="x0, y0, x1, y1 in pixels around it.")
    point: Point | None = Field(default=None, description="x, y in pixels on it.")
    mask: str | None = Field(
        default=None, description="A picture of the photo's size in base64, not black where it is."
    )


class SegmentRequest(PhotoFields):
    """Which of the labels each pixel shows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "street.jpg", "labels": ["road", "car"]}]})

    labels: list[str] = Field(default=[], description="What to look for.")
    background: Literal["auto", "none"] | list[str] = Field(
        default="auto", description="'none' gives every pixel a label; a list is your own contrast phrases."
    )
    instances: bool | list[str] = Field(
        default=False, description="Also find the objects, of all things or of these labels."
    )
    quality: Literal["fast", "best"] | None = None
    examples: list[Example] = Field(default=[], max_length=50, description="Labels shown by photos.")
    min_area: int = Field(default=0, ge=0)
    min_score: float = Field(default=0, ge=0, le=1)
    format: Format = "json"


class SelectRequest(PhotoFields):
    """One thing of a photo, by all clicks so far, a box, or words."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "cup.jpg", "positive": [[230, 215]]}]})

    positive: list[Point] = Field(default=[], max_length=_MOST_POINTS, description="x, y in pixels on the thing.")
    negative: list[Point] = Field(default=[], max_length=_MOST_POINTS, description="x, y in pixels off the thing.")
    box: Box | None = Field(default=None, description="x0, y0, x1, y1 in pixels around the thing.")
    text: str | None = None
    level: Literal["whole", "part", "subpart"] | None = None
    using: Literal["sam", "features"] = "sam"
    format: Literal["json", "png", "overlay", "cutout"] = "json"


class SearchRequest(PhotoFields):
    """The photos of the bank that are nearest to words or to a photo."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a red bus", "count": 10}]})

    text: str | None = Field(default=None, description="Words, in place of a photo.")
    without: str | None = Field(default=None, description="Words to keep away from.")
    count: int = Field(default=20, ge=1, le=1000)
    regions: bool = Field(default=False, description="Rank by the best region of each photo.")


def checked(model: type[ModelT], fields: dict[str, Any]) -> ModelT:
    """The request in these fields.

    Raises:
        Refusal: a field is unknown, missing or of another type; the first is told (422).
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"][:3]))[:100]
        known = ", ".join(model.model_fields)
        told = f"; the fields are {known}" if first["type"] == "extra_forbidden" else ""
        raise Refusal(422, f"'{place}' cannot be read: {first['msg'].lower()}{told}") from error
