"""`openapi.json` (3.1), written from the routes and the models that validate."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from receiver import __version__
from reconciler.api import shapes
from reconciler.api.problem import PROBLEM
from reconciler.api.routing import ANY, TAIL, Answer, Route

_EVERYWHERE = {
    400: Answer("The request is not as it should be; `errors` says where.", shapes.ProblemShape),
    401: Answer("The token is missing or wrong.", shapes.ProblemShape),
    403: Answer("Wrong Host without a token, or a foreign Origin.", shapes.ProblemShape),
    503: Answer("It cannot be done now; try again after Retry-After.", shapes.ProblemShape),
}
"""Answers that every operation may give."""
_METHODS = ("get", "put", "post", "delete", "patch")
_REF = "#/components/schemas/{model}"


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole description."""
    schemas, named = _schemas(routes)
    paths: dict[str, Any] = {}
    for route in routes:
        methods = _METHODS if route.method == ANY else (route.method.lower(),)
        item = paths.setdefault(route.path.replace(TAIL, "{path}"), {})
        for method in methods:
            item[method] = _operation(route, method, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast",
            "version": __version__,
            "summary": "The private listener: register jobs, wait for them, take messages, look and repair.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "X-Holdfast-Token"},
            },
        },
        "security": [{"bearer": []}, {"token": []}, {}],
    }


Mode = Literal["validation", "serialization"]
Named = Mapping[tuple[Any, Mode], dict[str, Any]]
"""(model, mode) -> a reference to its schema."""


def _schemas(routes: Iterable[Route]) -> tuple[dict[str, Any], Named]:
    models: list[tuple[type[BaseModel], Mode]] = []
    for route in routes:
        models += [(model, "validation") for model in (route.query, route.body) if model is not None]
        models += [(answer.model, "serialization") for answer in route.answers.values() if answer.model is not None]
    models.append((shapes.ProblemShape, "serialization"))
    named, defined = models_json_schema(list(dict.fromkeys(models)), ref_template=_REF)
    return defined["$defs"], named


def _operation(route: Route, method: str, named: Named) -> dict[str, Any]:
    answers = {**_EVERYWHERE, **route.answers}
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__ + (f"_{method}" if route.method == ANY else ""),
        "summary": route.summary,
        "tags": list(route.tags),
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {str(status): _response(status, answers[status], named) for status in sorted(answers)},
    }
    if route.method == ANY:
        operation["responses"]["default"] = {"description": "The provider's answer, unchanged."}
        if method != "get":
            operation["requestBody"] = {"required": False, "content": {"*/*": {}}}
    if route.body is not None:
        schema = named[route.body, "validation"]
        required = not route.body_may_be_absent
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = [*route.parameters, *(["path"] if route.path.endswith(TAIL) else [])]
    what = {
        "job_id": "The job's id, or its alias: one escaped segment, whatever it holds.",
        "path": "The path at the provider; it may hold slashes.",
    }
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
            **({"description": what[name]} if name in what else {}),
        }
        for name in names
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(ref_template=_REF)
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _not_null(each)}
        for name, each in schema.get("properties", {}).items()
    ]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: leaving the parameter out is how it is not given."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    if "anyOf" not in schema or len(kinds) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**rest, **kinds[0]}


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": what}
        for name, what in route.headers.items()
    ]


def _response(status: int, answer: Answer, named: Named) -> dict[str, Any]:
    media = PROBLEM if answer.model is shapes.ProblemShape else answer.media
    content = {} if answer.model is None else {"schema": named[answer.model, "serialization"]}
    response: dict[str, Any] = {"description": answer.what, "content": {media: content}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status == 503:
        response["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
    return response
