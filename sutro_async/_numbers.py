"""Validation of the numbers that users pass in; every message shows the value."""

from __future__ import annotations

import math
import numbers
import reprlib
from datetime import timedelta
from typing import Any, Final

from sutro_async.errors import ConfigurationError

__all__ = ["as_float", "as_int", "check_number", "check_whole_number", "shown", "timeout_seconds"]

# Seconds; some 30 years. An event loop cannot wait for much longer.
_FOREVER: Final = 1e9

_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def check_number(
    name: str,
    value: object,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    infinite: bool = False,
) -> float:
    """Return a number within its bounds, as a float.

    Args:
        name: What the number is, for the message of the error.
        value: Any real number: an int, a float, a Fraction, a scalar of NumPy.
        minimum: The smallest number allowed.
        maximum: The largest number allowed.
        above: A bound that is not allowed itself.
        infinite: Whether infinity is allowed.

    Raises:
        ConfigurationError: It is not such a number.
    """
    number = _to_float(value)
    if number is None:
        raise ConfigurationError(f"{name} must be a number, got {shown(value)}")
    if (
        not minimum <= number <= maximum
        or not number > above
        or (math.isinf(number) and not (infinite and number == value))
    ):
        bounds = [f"at least {minimum:g}"] if minimum > -math.inf else []
        bounds += [f"above {above:g}"] if above > -math.inf else []
        bounds += [f"at most {maximum:g}"] if maximum < math.inf else []
        bounds += ["finite"] if math.isinf(number) else []
        raise ConfigurationError(f"{name} must be {' and '.join(bounds)}, got {shown(value)}")
    return number


def check_whole_number(name: str, value: object, *, minimum: int) -> int:
    """Return a whole number from a minimum on, as an int; 4.0 is one.

    Raises:
        ConfigurationError: It is not such a number.
    """
    number = _to_float(value)
    if number is None or not number.is_integer():
        raise ConfigurationError(f"{name} must be a whole number, got {shown(value)}")
    if number < minimum:
        raise ConfigurationError(f"{name} must be at least {minimum}, got {shown(value)}")
    return int(number)


def timeout_seconds(timeout: object) -> float | None:
    """Return the timeout of a wait in seconds, None for no limit.

    Raises:
        ValueError: It is not a timeout.
    """
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else _to_float(timeout)
    if seconds is None or not seconds >= 0:
        raise ValueError(
            "timeout must be a number of seconds (at least 0), a timedelta or None,"
            f" got {shown(timeout)}"
        )
    return None if seconds > _FOREVER else seconds


def shown(value: object) -> str:
    """Return a value as it was passed in, for a message; hundreds of digits are abbreviated."""
    return _repr.repr(value).removesuffix(".0")


def as_float(value: float) -> float:
    """Return a real number as a plain float, and all else as it is, to be checked.

    A scalar of NumPy would round the times that it is added to.
    """
    number = _to_float(value)
    return value if number is None or (math.isinf(number) and number != value) else number


def as_int(value: int) -> int:
    """Return a whole number as a plain int, and all else as it is, to be checked."""
    number = _to_float(value)
    return value if number is None or not number.is_integer() else int(number)


def _to_float(value: Any) -> float | None:  # noqa: ANN401 - anything can be passed in
    if not _is_real(value):
        return None
    try:
        return float(value)
    except OverflowError:  # beyond the largest float
        return math.inf if value > 0 else -math.inf


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
