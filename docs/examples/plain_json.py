"""Reports, records, outcomes and errors as plain JSON, and back.

    text = converter.dumps(outcome)
    outcome = converter.loads(text, JobOutcome[JobStatusReport])

Copy it. An error keeps its type, its message and its fields, but neither cause nor traceback.
"""

from typing import Any

from cattrs.preconf.json import make_converter

import sutro_async
from sutro_async import JobStatusReport, SutroError

converter = make_converter()


def unstructure_error(error: SutroError) -> dict[str, Any]:
    """Make a JSON object of an error."""
    fields = {name: converter.unstructure(value) for name, value in vars(error).items()}
    return {"error": type(error).__name__, "text": str(error), "fields": fields}


def structure_error(content: dict[str, Any], _: object) -> SutroError:
    """Make the error again."""
    fields = dict(content["fields"])
    for name in fields.keys() & {"report", "last_report"}:
        fields[name] = converter.structure(fields[name], JobStatusReport | None)
    cls = getattr(sutro_async, content["error"])
    if not is_error(cls):
        raise ValueError(f"{content['error']!r} is no error of sutro_async")
    error: SutroError = cls.__new__(cls)
    error.args = (content["text"],)
    vars(error).update(fields)
    return error


def is_error(cls: object) -> bool:
    """Whether a type is that of an error of this library."""
    return isinstance(cls, type) and issubclass(cls, SutroError)


converter.register_unstructure_hook_func(is_error, unstructure_error)
converter.register_structure_hook_func(is_error, structure_error)
