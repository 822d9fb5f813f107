"""What the OpenAPI document says about bodies that the endpoints read themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

_REFERENCES = "#/components/schemas/{model}"
_STATUSES = {
    401: "no token, or another one",
    403: "called by another name, or from a page of another site",
    404: "no photo of that mark is kept",
    408: "the request did not arrive in time",
    413: "too many bytes or pixels",
    415: "no photo that can be read, or another kind of body",
    422: "a field that cannot be used",
    429: "all places are taken; try again",
    503: "it took too long, or weights are missing",
}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The body and the refusals of an endpoint that takes this model as JSON or as a form with a file."""
    schema = model.model_json_schema(ref_template=_REFERENCES)
    schema.pop("$defs", None)
    file = {"file": {"type": "string", "format": "binary", "description": "The photo."}}
    form = {"type": "object", "properties": file | schema["properties"]}
    refusal = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    example = {"error": "expected one photo, as 'file', 'image', 'path' or 'photo', got none; send one"}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": schema["examples"][0]},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            str(status): {
                "description": told,
                "content": {
                    "application/json": {"schema": refusal} | ({"example": example} if status == 422 else {})
                },
            }
            for status, told in _STATUSES.items()
        },
    }


def with_components(app: FastAPI, *models: type[BaseModel]) -> None:
    """Let the document of ``app`` also describe the models that bodies refer to."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas.update({each.__name__: each.model_json_schema(ref_template=_REFERENCES) for each in models})
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
