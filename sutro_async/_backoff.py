"""Exponential back-off, which retries and waits have in common."""

__all__ = ["backoff"]


def backoff(start: float, factor: float, steps: int, maximum: float) -> float:
    """Return `start * factor**steps`, but no more than `maximum`."""
    try:
        return min(start * factor**steps, maximum)
    except OverflowError:  # a long wait makes more steps than a float can express
        return maximum
