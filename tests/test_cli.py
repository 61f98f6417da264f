"""The command and signals."""

import asyncio
import os
import runpy
import signal
import sys

import pytest

from sutro_async import __version__, _ctrl_c, cli
from sutro_async.cli._process import run_loop


def test_python_m_runs_same_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sutro-async", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("sutro_async", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"sutro-async {__version__}\n"


# ---- Ctrl-C


@pytest.mark.parametrize(
    ("argv", "orig_argv", "expected"),
    [
        (["/usr/bin/sutro-async", "wait"], ["python", "/usr/bin/sutro-async", "wait"], True),
        ([r"C:\bin\sutro-async.exe"], ["python.exe", "sutro-async.exe"], True),
        (["-m", "wait"], ["python", "-W", "error", "-m", "sutro_async", "wait"], True),
        (["-m", "sutro_async"], ["python", "-m", "another", "sutro_async"], False),
        (["app.py", "sutro-async"], ["python", "app.py", "sutro-async"], False),
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_only_command_handles_ctrl_c_during_startup(argv, orig_argv, expected, monkeypatch):
    handlers, exits = {}, []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(os, "_exit", exits.append)
    assert _ctrl_c.install(argv, orig_argv) is expected
    assert bool(handlers) is expected
    for handler in handlers.values():
        handler(signal.SIGINT, None)
        assert exits == [130]


def test_ctrl_c_stays_ignored_in_background_of_script():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert _ctrl_c.install(["bin/sutro-async"], [])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

        async def command():
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.01)
            return 7

        assert run_loop(command()) == 7
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_command_and_restores_handlers(number):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    was_cancelled = False

    async def command():
        nonlocal was_cancelled
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    with pytest.raises(KeyboardInterrupt) as caught:
        run_loop(command())
    assert caught.value.args == (number,)
    assert was_cancelled
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_interrupt_at_any_point_sets_exit_status(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sutro_async.cli._commands.run", interrupt)
    assert cli.main(["demo"]) == 130
