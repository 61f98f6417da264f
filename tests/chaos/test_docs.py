"""The documentation of faults matches the tests."""

import re
from pathlib import Path

from tests.chaos._hostile import FAULTS, row
from tests.chaos._tls import TLS_FAULTS
from tests.chaos.test_campaign import JOBS, SEEDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_fault_is_in_the_table_and_nothing_else():
    in_table = re.findall(r"^\| `\w+` \| .*", PAGE, flags=re.MULTILINE)
    assert in_table == [row(fault) for fault in (*FAULTS.values(), *TLS_FAULTS.values())]


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 10
    for path, function in named:
        assert re.search(rf"(def|class) {function}\(", (ROOT / path).read_text(), re.MULTILINE), (
            function
        )


def test_the_counts_are_those_of_the_campaign_that_is_run():
    for seed in SEEDS:
        assert f"| {seed} | {JOBS:,} |" in PAGE
