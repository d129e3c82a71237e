from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

from fastgpu_hub.service.endpoints import ELSEWHERE, ENDPOINTS
from fastgpu_hub.service.openapi import document
from fastgpu_hub.service.pages.views import PAGE_OF_FORM, VIEWS
from fastgpu_hub.service.routes import API, PAGES, ROUTES

DOCUMENT = document(ROUTES, server="/services/fastgpu/", version="1")


def test_every_api_row_has_its_function_and_every_function_its_row() -> None:
    assert {route.name for route in API} == set(ENDPOINTS) | ELSEWHERE
    assert {route.name for route in PAGES} - {"oauth_callback"} == set(VIEWS)
    assert {route.name for route in PAGES if route.method == "POST"} == set(PAGE_OF_FORM)


def test_no_two_rows_answer_the_same_request() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_every_post_with_an_effect_takes_an_idempotency_key() -> None:
    assert {route.name for route in API if route.method == "POST" and not route.effect} == {
        "quote",
        "preview",
        "start_plan",
    }


def test_the_document_holds_every_api_row_and_no_page() -> None:
    found = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert found == {(route.method.lower(), f"/{route.path}") for route in API}


def test_the_document_is_openapi_3_1() -> None:
    if importlib.util.find_spec("openapi_spec_validator"):
        from openapi_spec_validator import validate

        validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")
    text = json.dumps(DOCUMENT)
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', text):
        assert reference in DOCUMENT["components"]["schemas"]
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert operation["responses"]
            assert "default" in operation["responses"]
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


async def test_the_service_serves_this_document(service: Any) -> None:
    served = (await service.call("t-alice", "GET", "api/openapi.json")).json()
    assert served["paths"] == json.loads(json.dumps(DOCUMENT["paths"]))
