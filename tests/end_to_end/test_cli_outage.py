"""What `sutro-async wait` shows while the service does not respond."""

import asyncio
import re

import pytest

from sutro_async import PollPolicy
from sutro_async.cli import _wait
from sutro_async.cli._entries import Board
from sutro_async.cli._show import open_output
from tests.conftest import FAST_RETRY
from tests.end_to_end.test_cli_drawing import make_terminal  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("fast_clock")


@pytest.fixture
async def client(fake):
    async with fake.client(retry=FAST_RETRY, poll=PollPolicy(maximum=3)) as opened:
        yield opened


async def start(fake, client, wanted):
    """Start a wait for two jobs, one of which finishes after a minute."""
    loop = asyncio.get_running_loop()
    fake.add_job("job-1", [("running", 60), "succeeded"])
    fake.add_job("job-2", [("running", 1), "succeeded"])
    board = Board(["job-1", "job-2"], clock=loop.time)
    output = open_output(wanted, raw=False)
    waiting = asyncio.create_task(_wait.wait_for_all(client, board, output, timeout=None))
    await asyncio.sleep(10)
    return waiting, board


async def test_plain_output_reports_begin_and_end_of_outage_once(fake, client, capsys):
    waiting, _ = await start(fake, client, "plain")
    fake.fail_next(10_000, status=503)
    await asyncio.sleep(16)
    fake.clear_faults()
    await waiting
    changes = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    words = [line.split(maxsplit=1)[1] for line in changes]
    assert words[:3] == ["job-1  running", "job-2  running", "job-2  succeeded"]
    assert re.fullmatch(
        r"no response from the service since \d\d:\d\d:\d\d: job 'job-1': HTTP 503: .+", words[3]
    )
    assert words[4:] == ["the service responds again", "job-1  succeeded"]
    began, ended = (float(line.split()[0].rstrip("s")) for line in changes[3:5])
    assert 20 <= began < 25
    assert 26 <= ended < 32


async def test_live_table_shows_line_during_outage(fake, client, make_terminal):  # noqa: F811
    terminal = make_terminal()
    waiting, board = await start(fake, client, "table")
    fake.fail_next(10_000, disconnect=True)
    await asyncio.sleep(5)
    assert "no response from the service" not in "\n".join(terminal.lines)
    while not board.outage:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    assert 20 <= board.elapsed < 26
    [line] = [line for line in terminal.lines if "no response from the service" in line]
    assert re.match(r"no response from the service since \d\d:\d\d:\d\d: job 'job-1': no r", line)
    assert len(line) <= 80
    assert terminal.lines[0].startswith("Job ")
    assert any(line.endswith("1 of 2 finished") for line in terminal.lines)
    fake.clear_faults()
    await asyncio.sleep(5)
    assert "no response from the service" not in "\n".join(terminal.lines)
    fake.set_status("job-1", "succeeded")
    await waiting


async def test_hanging_service_is_shown_before_first_timeout(fake, client, capsys):
    waiting, board = await start(fake, client, "plain")
    fake.fail_next(10_000, delay=3600)
    await asyncio.sleep(15)
    assert re.fullmatch(r"no response from the service since \d\d:\d\d:\d\d", board.outage)
    waiting.cancel()
    await asyncio.wait({waiting})


@pytest.mark.parametrize("wanted", ["json", "csv"])
async def test_data_formats_do_not_report_outage(fake, client, capsys, wanted):
    waiting, _ = await start(fake, client, wanted)
    fake.fail_next(10_000, status=503)
    await asyncio.sleep(16)
    fake.clear_faults()
    await waiting
    assert "service" not in capsys.readouterr().out
