"""Values as plain JSON, which `to_dict()` of models and errors has in common."""

from __future__ import annotations

import copy
import enum
import math
from datetime import datetime
from typing import Any

__all__ = ["plain"]


def plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Return a copy of a value as JSON has it; None for a number that is not finite."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, enum.StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return copy.deepcopy(value)
