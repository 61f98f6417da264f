"""Memory stays bounded, measured in a process of its own."""

import asyncio
import json
import os
import sys

import attrs

from sutro_async import InvalidResponseError, ServerError
from tests.chaos._hostile import FAULTS, HostileServer
from tests.chaos.conftest import KEY

MAX_MEBIBYTES = 64
# Slightly below the limit, so that the whole body is read.
ALLOWED = 2**24 - 100
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


def filled(start, filling, end=b""):
    """Repeat `filling` as often as it fits."""
    return start + filling * ((ALLOWED - len(start) - len(end)) // len(filling)) + end


LIST = b'{"job_status": "running", "metadata": {"x": ['
MESSAGE = b'{"job_status": "running", "message": "'
SMILE = "\U0001f600".encode()
LARGE_BODIES = {
    "no_json": filled(b"", b"x"),
    "no_json_unprintable": filled(b"", b"\x01"),
    "no_json_wide": filled(SMILE, b"x"),
    "no_utf_8": filled(b"\xff", b"x"),
    "lists": filled(LIST, b"[],", b"0]}}"),
    "objects": filled(LIST, b"{},", b"0]}}"),
    "numbers": filled(LIST, b"0.1,", b"0]}}"),
    "strings": filled(LIST, b'"",', b"0]}}"),
    "unending_strings": filled(LIST, b'\\"'),
    "wide": filled(MESSAGE + SMILE, b"x", b'"}'),
    "wide_by_escape": filled(MESSAGE + rb"\ud83d\ude00", b"x", b'"}'),
    "half_a_character": filled(MESSAGE + rb"\ud83d", b"x", b'"}'),
    "wrong_type": filled(b'{"job_status": ["', b"x", b'"]}'),
}


def large_fault(name):
    """A fault that is not in the table, since it differs from others only in size."""

    async def inject(x):
        if name == "error_of_lists":
            x.send(b'{"detail": [' + b"[]," * 340_000 + b"0]}", status=502)
        else:
            x.send(LARGE_BODIES[name])

    return attrs.evolve(FAULTS["error_of_brackets"], name=name, inject=inject)


LARGE_FAULTS = {name: large_fault(name) for name in [*LARGE_BODIES, "error_of_lists"]}

CLIENT = """
import asyncio, json, re, sys
from pathlib import Path
from sutro_async import APIError, RetryPolicy, SutroClient

def mebibytes(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

async def main(url, key, bombs):
    policy = RetryPolicy(attempts=1)
    async with SutroClient(key, base_url=url, timeout=2, retry=policy) as client:
        await client.get_job_status("warm-up")
        before = mebibytes("VmRSS")
        errors = []
        for bomb in bombs:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
            try:
                await client.get_job_status(bomb)
            except APIError as error:
                errors.append(error)
                name = type(error).__name__
            print(json.dumps([bomb, name, mebibytes("VmHWM") - before]))

asyncio.run(main(*sys.argv[1:3], sys.argv[3:]))
"""


async def test_hostile_response_takes_at_most_64_mib():
    server = HostileServer(lambda _: "running", FAULTS.get, client_timeout=2)
    async with server:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, server.url, KEY, *BOMBS, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await client.communicate()
    assert client.returncode == 0
    results = [json.loads(line) for line in output.splitlines()]
    assert [name for name, _, _ in results] == list(BOMBS)
    for name, error, mebibytes in results:
        assert error == FAULTS[name].error.__name__
        assert mebibytes < MAX_MEBIBYTES, name


async def test_large_body_takes_at_most_64_mib_and_is_released():
    async with HostileServer(lambda _: "running", LARGE_FAULTS.get) as server:
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", CLIENT, server.url, KEY, *LARGE_FAULTS),
            stdout=asyncio.subprocess.PIPE,
            # Freed memory is returned to the system at once, so that only memory in use counts.
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
        )
        output, _ = await client.communicate()
    assert client.returncode == 0
    results = [json.loads(line) for line in output.splitlines()]
    assert [name for name, _, _ in results] == list(LARGE_FAULTS)
    for name, error, mebibytes in results:
        expected = ServerError if name == "error_of_lists" else InvalidResponseError
        assert error == expected.__name__, name
        # All errors so far are kept, so this includes the memory that they hold.
        assert mebibytes < MAX_MEBIBYTES, name
