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
        pairs = [list(each.items())[_index(number, len(each))] for each in dimensions]
        names, cases = zip(*pairs, strict=True)
        combined.append(pytest.param(*cases, id="-".join(names)))
    return combined


def _index(number, length):
    """The next index, shifted with each round, so that periodic cases are combined with all."""
    return (number + number // length) % length
