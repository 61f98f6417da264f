"""The commands of `sutro-async`, their options and their help."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NoReturn, TypeVar

import click

from sutro_async import JobWaitTimeoutError, SutroClient, __version__
from sutro_async.cli._board import Board
from sutro_async.cli._errors import print_error, print_errors, print_timeouts
from sutro_async.cli._exit import ExitStatus, status_of_outcomes
from sutro_async.cli._fake import DEFAULT_JOBS, PlannedJob, parse_job, serve
from sutro_async.cli._format import count, job_count
from sutro_async.cli._ids import read_ids
from sutro_async.cli._loop import run as run_loop
from sutro_async.cli._reasons import add_reasons
from sutro_async.cli._show import show_jobs, show_reports
from sutro_async.cli._views import open_view
from sutro_async.cli._wait import wait_for_all

__all__ = ["cli", "run"]

_PROGRAM: Final = "sutro-async"
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}

Command = TypeVar("Command", bound=Callable[..., Any])


def run(arguments: Sequence[str]) -> int:
    """Run a command, and return its exit status.

    Raises:
        click.ClickException: The arguments cannot be used.
        KeyboardInterrupt: It was interrupted.
        OSError: The output cannot be written.
        SutroError: An error that says nothing about one job.
    """
    # The shell asks for completions; `cli.main` prints them and exits. For all else it is passed
    # by, since it has its own way with interrupts and broken pipes.
    if os.environ.get("_SUTRO_ASYNC_COMPLETE"):
        cli.main(list(arguments), _PROGRAM)
    try:
        with cli.make_context(_PROGRAM, list(arguments)) as context:
            return int(cli.invoke(context))
    except click.exceptions.Exit as end:  # of --help and --version
        return end.exit_code


def _parse_timeout(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> float | None:
    """Read a time span: `90` or `90s`, `10m`, `1.5h`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([smh]?)", text.strip(), re.ASCII)
    if match is None:
        raise click.BadParameter(
            f"{text!r} is no time span such as 90, 10m or 1.5h", context, parameter
        )
    return float(match[1]) * _SECONDS[match[2]]


_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def _asks_the_service(command: Command) -> Command:
    """Add what all commands have in common that ask about jobs."""
    for decorate in (
        click.option(
            "--max-concurrency",
            default=20,
            show_default=True,
            type=click.IntRange(min=1),
            metavar="NUMBER",
            help="Requests in flight at once.",
        ),
        click.option(
            "--base-url", metavar="URL", help="Where the service is, other than SUTRO_API_URL says."
        ),
        click.option("--raw", is_flag=True, help="Print each status as the service sent it."),
        _as_json,
        click.argument("jobs", nargs=-1, required=True, metavar="JOB..."),
    ):
        command = decorate(command)
    return command


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog="The key is taken from SUTRO_API_KEY, or from where `sutro login` has stored it."
    " JOB is a job id, and - stands for the ids on standard input.",
)
@click.version_option(__version__, message=f"{_PROGRAM} %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """Check on Sutro batch jobs, and wait for them.

    New here? `sutro-async demo` needs no key and no network.
    """
    if context.invoked_subcommand is None:
        print_error(context.get_help())
    return ExitStatus.USAGE


@cli.command(epilog="Example: sutro-async status job-12345 job-12346")
@_asks_the_service
def status(
    jobs: tuple[str, ...], *, as_json: bool, raw: bool, base_url: str | None, max_concurrency: int
) -> int:
    """Say where jobs stand now."""
    job_ids = read_ids(jobs, sys.stdin)

    async def ask() -> int:
        async with SutroClient(base_url=base_url, max_concurrency=max_concurrency) as client:
            statuses = await client.get_job_statuses(job_ids)
            outcomes = await add_reasons(client, statuses.values())
        show_reports(outcomes, as_json=as_json, raw=raw)
        sys.stdout.flush()  # before what is wrong is told
        print_errors(outcome.error for outcome in outcomes if outcome.error)
        return status_of_outcomes(outcomes)

    return run_loop(ask())


@cli.command(epilog="Example: sutro-async job job-12345 --full")
@click.option("--full", is_flag=True, help="Print the prompt, the schema and the like whole.")
@_asks_the_service
def job(
    jobs: tuple[str, ...],
    *,
    full: bool,
    as_json: bool,
    raw: bool,
    base_url: str | None,
    max_concurrency: int,
) -> int:
    """Show the whole record of a job."""
    job_ids = read_ids(jobs, sys.stdin)

    async def ask() -> int:
        async with SutroClient(base_url=base_url, max_concurrency=max_concurrency) as client:
            outcomes = (await client.get_jobs(job_ids)).values()
        show_jobs(outcomes, as_json=as_json, full=full, raw=raw)
        sys.stdout.flush()  # before what is wrong is told
        print_errors(outcome.error for outcome in outcomes if outcome.error)
        return status_of_outcomes(outcomes)

    return run_loop(ask())


@cli.command(epilog="Example: cat ids.txt | sutro-async wait - --timeout 2h")
@click.option(
    "--timeout",
    callback=_parse_timeout,
    metavar="TIME",
    help="Give up after so long: 90 (seconds), 10m, 1.5h; 0 asks once.",
)
@_asks_the_service
def wait(
    jobs: tuple[str, ...],
    *,
    timeout: float | None,
    as_json: bool,
    raw: bool,
    base_url: str | None,
    max_concurrency: int,
) -> int:
    """Wait until jobs have ended, and show what they cost.

    The jobs go on at the service, whatever becomes of the wait.
    """
    board = Board(read_ids(jobs, sys.stdin))
    view = open_view(board, as_json=as_json, raw=raw)

    async def follow() -> None:
        async with SutroClient(base_url=base_url, max_concurrency=max_concurrency) as client:
            await wait_for_all(client, board, view, timeout=timeout)

    number = len(board.entries)
    try:
        run_loop(follow())
    except KeyboardInterrupt:
        unfinished = number - len(board.outcomes)
        if unfinished:
            print_error(
                f"Interrupted: {count(unfinished)} of {job_count(number)} had not ended,"
                " and go on at the service."
            )
        raise
    errors = [outcome.error for outcome in board.outcomes if outcome.error]
    print_errors(error for error in errors if not isinstance(error, JobWaitTimeoutError))
    print_timeouts((error for error in errors if isinstance(error, JobWaitTimeoutError)), number)
    return status_of_outcomes(board.outcomes)


def _parse_jobs(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[PlannedJob, ...]:
    del context, parameter
    jobs = tuple(map(parse_job, texts))
    for job_id, number in Counter(job.job_id for job in jobs).items():
        if number > 1:
            raise click.UsageError(f"there are {number} jobs {job_id!r}: keep one")
    return jobs or DEFAULT_JOBS


def _check_reason(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.BadParameter("say why, or leave the option out", context, parameter)
    return text


@cli.command(epilog="Example: sutro-async fake --job job-1=queued:2,running:5,succeeded")
@click.option(
    "--job",
    "jobs",
    multiple=True,
    callback=_parse_jobs,
    metavar="ID=TIMELINE",
    help="A job, and its statuses with the seconds that each lasts; may be repeated.",
)
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65_535),
    metavar="NUMBER",
    help="The port to listen at, other than a free one.",
)
@click.option(
    "--dialect",
    type=click.Choice(["mapping", "flat"]),
    default="mapping",
    help="Answer as the deployed service does, or as its API reference has it.",
)
@click.option(
    "--failure-reason",
    default="no GPU was free",
    show_default=True,
    callback=_check_reason,
    metavar="TEXT",
    help="Why those jobs fail that do.",
)
@_as_json
def fake(
    jobs: tuple[PlannedJob, ...],
    *,
    port: int,
    dialect: Literal["mapping", "flat"],
    failure_reason: str,
    as_json: bool,
) -> NoReturn:
    """Run a fake Sutro service on this machine, to play with.

    It serves until Ctrl-C. The clocks of its jobs begin with it. Statuses without seconds go by
    requests: each request for the status is answered with the next one.
    """
    from sutro_async.testing import FakeSutro  # noqa: PLC0415 - brings a server along

    service = FakeSutro(dialect=dialect, port=port)
    run_loop(serve(service, jobs, failure_reason=failure_reason, as_json=as_json))


@cli.command(epilog="Example: sutro-async demo")
@_as_json
def demo(*, as_json: bool) -> int:
    """Wait for six jobs on a fake service, for a start.

    It needs no key and no network, and takes a few seconds.
    """
    from sutro_async.cli._demo import run_demo  # noqa: PLC0415 - brings a server along

    return run_loop(run_demo(as_json=as_json))
