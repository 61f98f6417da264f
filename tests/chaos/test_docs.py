"""The documentation of faults matches the tests."""

import re
from pathlib import Path

from tests.chaos._hostile import FAULTS, row
from tests.chaos._tls import TLS_FAULTS
from tests.chaos.test_campaign import JOBS, SEEDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_table_matches_faults():
    in_table = re.findall(r"^\| `\w+` \| .*", PAGE, flags=re.MULTILINE)
    assert in_table == [row(fault) for fault in (*FAULTS.values(), *TLS_FAULTS.values())]


def test_named_tests_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 10
    for path, function in named:
        assert re.search(rf"(def|class) {function}\(", (ROOT / path).read_text(), re.MULTILINE), (
            function
        )


def test_counts_match_campaign():
    for seed in SEEDS:
        assert f"| {seed} | {JOBS:,} |" in PAGE
