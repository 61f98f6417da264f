"""JSON to the attrs classes: the one cattrs converter, and the rules for single values.

Where in a body these values are is known to `_responses` and `_pages`.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar, cast

import cattrs

from sutro_async._wire._json import as_text
from sutro_async.models import FailureReason, Job, JobStatus, JobStatusReport, JSONObject

__all__ = ["is_same_status", "structure_job", "structure_report"]

T = TypeVar("T")


class _MismatchError(ValueError):
    """A value that is not of its documented type.

    Attributes:
        expected: A description of the type.
    """

    def __init__(self, expected: str) -> None:
        super().__init__(f"expected {expected}")
        self.expected = expected


# The hooks are looked up once: half of the time that cattrs takes for a report goes into that.


def structure_report(fields: Mapping[str, Any]) -> JobStatusReport:
    """Make a report of fields that are of the right types."""
    return _report_hook()(fields, JobStatusReport)


def structure_job(fields: Mapping[str, Any]) -> tuple[Job, dict[str, str]]:
    """Make a record; a field of a wrong type becomes None, and moves to `extra`.

    Args:
        fields: The fields of `Job`, of which those without a default are of the right types.

    Returns:
        The record, and the names of the fields of a wrong type with what was expected of them.
    """
    try:
        return _job_hook()(fields, Job), {}
    except cattrs.ClassValidationError as error:
        mismatches = {
            note.name: cast("_MismatchError", mismatch).expected
            for mismatch, note in error.group_exceptions()[0]
        }
    extra = {**fields["extra"], **{name: fields[name] for name in mismatches}}
    readable = {**fields, **dict.fromkeys(mismatches), "extra": extra}
    return _job_hook()(readable, Job), mismatches


@functools.cache
def _report_hook() -> Callable[[object, type], JobStatusReport]:
    return _converter().get_structure_hook(JobStatusReport)


@functools.cache
def _job_hook() -> Callable[[object, type], Job]:
    return _converter().get_structure_hook(Job)


@functools.cache
def _converter() -> cattrs.Converter:
    """The one converter, made at first use, so that importing the library does not pay for it."""
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook(str, _require_type(str, "a string"))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _time)
    converter.register_structure_hook(JobStatus, _status)
    converter.register_structure_hook_func(
        lambda cls: cls == JSONObject, _require_type(dict, "an object")
    )
    converter.register_structure_hook_factory(_is_optional, _optional)
    converter.register_structure_hook(FailureReason, _reason)
    return converter


def _require_type(cls: type[T], expected: str) -> Callable[[object, object], T | None]:
    def structure(value: object, _: object) -> T | None:
        if value is None or isinstance(value, cls):
            return value
        raise _MismatchError(expected)

    return structure


# A number as JSON writes it. The bounds keep a short text from becoming a number of a million
# digits.
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?([eE][+-]?[0-9]{1,3})?")


def _integer(value: object, _: object) -> int | None:
    if value is None or type(value) is int:  # not a bool
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = Decimal(value)
        if number == number.to_integral_value():
            return int(number)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise _MismatchError("an integer")


def _number(value: object, _: object) -> float | None:
    if value is None or type(value) is float:
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = float(value)
        if Decimal(repr(number)) == Decimal(value):  # no digit is lost
            return number
    if type(value) is not int:  # a bool neither
        raise _MismatchError("a number")
    try:
        return float(value)
    except OverflowError:
        raise _MismatchError("a number in range") from None


# Python has no 60th second; it is the second after the 59th.
_LEAP_SECOND: Final = re.compile(r"(?<=[T ]\d\d:\d\d:)60")


def _time(value: object, _: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _MismatchError("an ISO 8601 time")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        time = _unusual_time(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _unusual_time(value: str) -> datetime:
    """Read a time in lower case, or with a leap second, as RFC 3339 allows."""
    text, leap_seconds = _LEAP_SECOND.subn("59", value.upper())
    try:
        return datetime.fromisoformat(text) + timedelta(seconds=leap_seconds)
    except (ValueError, OverflowError):
        raise _MismatchError("an ISO 8601 time") from None


_SPELLINGS: Final = {
    **{status.value: status for status in JobStatus},
    "canceled": JobStatus.CANCELLED,
    "canceling": JobStatus.CANCELLING,
}


def _status(value: str, _: object) -> JobStatus:
    return _SPELLINGS.get(value.lower(), JobStatus.UNKNOWN)


def is_same_status(word: str, other: str) -> bool:
    """Whether two statuses mean the same, whatever their case and spelling."""
    word, other = word.lower(), other.lower()
    return _SPELLINGS.get(word, word) == _SPELLINGS.get(other, other)


def _reason(value: Mapping[str, Any] | None, _: object) -> FailureReason | None:
    if value is None:
        return None
    texts = {
        name: as_text(value[name])
        for name in ("message", "additional_context")
        if value.get(name) is not None
    }
    return FailureReason(**texts, details=value)


def _is_optional(cls: object) -> bool:
    return isinstance(cls, types.UnionType) and types.NoneType in cls.__args__


def _optional(
    cls: types.UnionType, converter: cattrs.Converter
) -> Callable[[object, object], object]:
    (inner,) = set(cls.__args__) - {types.NoneType}
    return converter.get_structure_hook(inner)
