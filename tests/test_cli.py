"""The command, as a process."""

import re
import runpy
import signal
import subprocess
import sys
import time

import pytest

from sutro_async import __version__, cli

COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-m", "sutro_async"]


def test_the_demo_runs_without_key_and_network(capsys):
    assert cli.main(["demo"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    ends = dict(re.findall(r"s  (\w+) +(succeeded|failed|cancelled)$", output, re.MULTILINE))
    assert sorted(ends.values()) == ["cancelled", "failed", *["succeeded"] * 4]
    assert "because the output does not match the schema (row 17" in output
    assert len(re.findall(r"└ \d+ rows, ran for", output)) == 6
    code = output.partition("SUTRO_API_KEY:\n")[2]
    compile("async def main():\n" + code, "demo", "exec")


def test_interrupting_the_demo_leaves_no_traceback():
    process = subprocess.Popen(
        [*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("A fake Sutro service")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert process.returncode == 130
    assert errors == ""


def test_an_interrupt_is_an_exit_status(monkeypatch):
    def interrupt(coroutine):
        coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("asyncio.run", interrupt)
    assert cli.main(["demo"]) == 130


def test_python_m_is_the_same_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sutro-async", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("sutro_async", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"sutro-async {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["dance"]])
def test_wrong_usage_is_exit_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: sutro-async" in capsys.readouterr().err
