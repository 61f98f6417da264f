"""Exponential growth, of polling intervals and of delays after failures.

Its numbers are the fields of `PollPolicy` and `RetryPolicy`, and constants of the callers.
"""

__all__ = ["backoff"]


def backoff(start: float, factor: float, steps: int, maximum: float) -> float:
    """Return `start * factor**steps`, but no more than `maximum`."""
    try:
        return min(start * factor**steps, maximum)
    except OverflowError:  # a long wait makes more steps than a float can express
        return maximum
