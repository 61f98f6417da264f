"""Print what `docs/reliability.md` shows: the table of faults, or the counts of the campaign.

python -m tests.chaos faults
python -m tests.chaos campaign
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter

from tests.chaos._campaign import Campaign
from tests.chaos._hostile import FAULTS, row
from tests.chaos._tls import TLS_FAULTS
from tests.chaos.test_campaign import JOBS, SEEDS, run_campaign


def print_faults() -> None:
    for fault in (*FAULTS.values(), *TLS_FAULTS.values()):
        print(row(fault))


def print_campaign() -> None:
    logging.getLogger("sutro_async").setLevel(logging.CRITICAL)
    faults: Counter[str] = Counter()
    for seed in SEEDS:
        campaign = Campaign(seed)
        asyncio.run(run_campaign(campaign, JOBS))
        faults += campaign.faults
        results = ", ".join(
            f"{count:,} {result}" for result, count in campaign.results.most_common()
        )
        print(
            f"| {seed} | {JOBS:,} | {campaign.requests:,} | {sum(campaign.faults.values()):,}"
            f" | {results} | {len(campaign.wrong_results)} |"
        )
    print(", ".join(f"`{name}` {faults[name]}" for name in FAULTS if faults[name]))


if __name__ == "__main__":
    {"faults": print_faults, "campaign": print_campaign}[sys.argv[1]]()
