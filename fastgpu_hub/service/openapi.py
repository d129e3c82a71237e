"""The OpenAPI 3.1 document of the route table. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from fastgpu.models import ErrorAnswer
from fastgpu_hub.service.routing import BYTES, EVENTS, JSON, SCOPES, Query, Route

REF = "#/components/schemas/{model}"


def document(routes: Sequence[Route], *, server: str, version: str) -> dict[str, Any]:
    """The whole document for the API rows among ``routes``, served under ``server``."""
    rows = [route for route in routes if not route.is_page]
    schemas, definitions = _schemas(rows)
    paths: dict[str, dict[str, Any]] = {}
    for route in rows:
        paths.setdefault(f"/{route.path}", {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FastGPU",
            "version": version,
            "description": "Money is an integer in micro-units, instants are ISO 8601 UTC, durations whole seconds.",
        },
        "servers": [{"url": server.rstrip("/")}],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token <JupyterHub API token>`, or `Bearer <…>`",
                }
            },
        },
    }


def _schemas(rows: Sequence[Route]) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    """Reference of every model used, and the definitions they refer to."""
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ErrorAnswer, "serialization")]
    for route in rows:
        if route.body is not None and (route.body, "validation") not in wanted:
            wanted.append((route.body, "validation"))
        if route.answer is not None and (route.answer, "serialization") not in wanted:
            wanted.append((route.answer, "serialization"))
    found, top = models_json_schema(wanted, ref_template=REF)
    return {model: found[model, mode] for model, mode in wanted}, top["$defs"]


def _operation(route: Route, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"For: {route.who}." + (f" Scope: {SCOPES[route.who]}." if SCOPES[route.who] else ""),
        "tags": [route.path.removeprefix("api/").split("/")[0].removesuffix(".json")],
        "parameters": [*_path_parameters(route), *(_query_parameter(query) for query in route.query)],
        "responses": {
            str(route.status): _success(route, schemas),
            "default": {
                "description": "A refusal or an error, explained",
                "content": {JSON: {"schema": schemas[ErrorAnswer]}},
            },
        },
        "security": [] if route.who == "anyone" else [{"token": []}],
    }
    if route.effect:
        operation["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "A repeat with the same key and body gets the first answer and has no second effect.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
            }
        )
    if route.media == EVENTS:
        operation["parameters"].append(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "required": False,
                "description": "The last id that was received: the stream goes on after it.",
                "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
            }
        )
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[route.body]}}}
    elif route.method == "PUT":
        binary = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": {BYTES: binary}}
    return operation


def _success(route: Route, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": route.summary}
    if not route.media:
        return response
    schema: dict[str, Any] = {"type": "object"} if route.media == JSON else {"type": "string"}
    if route.answer is not None:
        schema = schemas[route.answer]
    if route.many:
        schema = {"type": "array", "items": schema}
    response["content"] = {route.media.split(";")[0]: {"schema": schema}}
    for media in route.other_media:
        response["content"][media.split(";")[0]] = {"schema": {"type": "string"}}
    return response


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if name == "number" else {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def _query_parameter(query: Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if query.kind == "integer":
        schema = {"type": "integer", "minimum": query.minimum, "maximum": query.maximum}
    elif query.kind == "instant":
        schema["format"] = "date-time"
    elif query.choices:
        schema["enum"] = list(query.choices)
    else:
        schema["pattern"] = query.pattern
    if query.default is not None:
        schema["default"] = query.default
    return {"name": query.name, "in": "query", "required": False, "description": query.help, "schema": schema}
