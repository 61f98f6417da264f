"""Cases of tests that have more than one dimension."""

import pytest


def in_turn(*dimensions):
    """Combine each case of the longest dimension with those of the others in turn.

    For dimensions that share no code, so that all combinations would test the same again.

    Args:
        dimensions: Mappings of names to cases.
    """
    combined = []
    for number in range(max(map(len, dimensions))):
        pairs = [list(each.items())[_turn(number, len(each))] for each in dimensions]
        names, cases = zip(*pairs, strict=True)
        combined.append(pytest.param(*cases, id="-".join(names)))
    return combined


def _turn(number, length):
    """The next one, and another at the start of each round, so that periodic cases meet all."""
    return (number + number // length) % length
