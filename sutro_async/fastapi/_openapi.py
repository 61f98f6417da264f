"""The responses that FastAPI cannot derive by itself, for the OpenAPI document.

Their schemas are written out where they are used, without references: FastAPI chooses the names of
an app's models only once it knows all of them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi.sse import EventSourceResponse
from pydantic import TypeAdapter

from sutro_async.fastapi._models import JobProblem, JobStatusReportModel, ServiceTrouble
from sutro_async.fastapi._problems import PROBLEM_JSON

__all__ = ["EVENTS", "UNREADABLE_BODY", "Responses", "problems"]

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Describe the responses with problem details: `statuses`, and those of every route."""
    content = {PROBLEM_JSON: {"schema": _schema(JobProblem)}}
    responses: Responses = {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*statuses, 422, 500, 502, 503, 504})
    }
    for status in (502, 503):
        responses[status]["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
        }
    return responses


def _schema(model: Any) -> dict[str, Any]:  # noqa: ANN401 - a model, or a union of some
    """Describe a model, and those that it holds, in one schema without references."""
    schema = TypeAdapter(model).json_schema(mode="serialization")
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:  # noqa: ANN401 - any part of a schema
        if isinstance(part, list):
            return [resolved(item) for item in part]
        if not isinstance(part, dict):
            return part
        reference = part.get("$ref", "").rpartition("/")[2]
        whole = definitions.get(reference, {}) | part
        return {name: resolved(value) for name, value in whole.items() if name != "$ref"}

    result: dict[str, Any] = resolved(schema)
    return result


EVENTS: Final[Responses] = {
    200: {
        "description": (
            "A `status` event with each report that differs from the one before: the first at once,"
            " the terminal report last. A `problem` event is the last event of its job. The stream"
            " ends when each job has had its last event. The last event of the stream has the id"
            " `end`, unless it may help to reconnect. A `trouble` event says that the service has"
            " not responded for ten seconds; the next `status` event says that it responds again."
        ),
        "content": {
            EventSourceResponse.media_type: {
                "itemSchema": {
                    "properties": {
                        "data": {
                            "contentMediaType": "application/json",
                            "contentSchema": _schema(
                                JobStatusReportModel | JobProblem | ServiceTrouble
                            ),
                        }
                    }
                }
            }
        },
    },
    204: {"description": "There are no events after `end`: do not reconnect."},
}

UNREADABLE_BODY: Final[Responses] = {
    400: {
        "description": "The body cannot be decoded as text.",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"detail": {"type": "string"}}}
            }
        },
    },
}
