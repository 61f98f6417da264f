"""What could fill the memory does not, measured in a process that does nothing else."""

import asyncio
import json
import sys

from tests.chaos._hostile import FAULTS, HostileServer
from tests.chaos.conftest import KEY

MAX_MEBIBYTES = 64
BOMBS = (
    "gzip_bomb",
    "gzip_bomb_in_error",
    "endless_body",
    "endless_headers",
    "endless_informed",
    "header_long",
    "headers_many",
    "million_brackets",
    "million_levels",
    "error_of_brackets",
    "number_long",
)
CLIENT = """
import asyncio, json, re, sys
from pathlib import Path
from sutro_async import APIError, RetryPolicy, SutroClient

def mebibytes(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

async def main(url, key, bombs):
    policy = RetryPolicy(attempts=1)
    async with SutroClient(key, base_url=url, timeout=2, retry=policy) as client:
        await client.get_job_status("harmless")
        before = mebibytes("VmRSS")
        for bomb in bombs:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
            try:
                await client.get_job_status(bomb)
            except APIError as error:
                met = type(error).__name__
            print(json.dumps([bomb, met, mebibytes("VmHWM") - before]))

asyncio.run(main(*sys.argv[1:3], sys.argv[3:]))
"""


async def test_no_bomb_takes_more_than_64_mib():
    server = HostileServer(lambda _: "running", FAULTS.get, client_timeout=2)
    async with server:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, server.url, KEY, *BOMBS, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await client.communicate()
    assert client.returncode == 0
    met = [json.loads(line) for line in output.splitlines()]
    assert [name for name, _, _ in met] == list(BOMBS)
    for name, error, mebibytes in met:
        assert error == FAULTS[name].error.__name__
        assert mebibytes < MAX_MEBIBYTES, name
