"""The commands of `sutro-async`, their options and their help."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NoReturn

import attrs
import click

from sutro_async import Job, JobStatus, PollPolicy, SutroClient, __version__
from sutro_async.cli._data import record_fields, report_fields, write_csv, write_json
from sutro_async.cli._entries import Board, Entry, exit_status
from sutro_async.cli._errors import ExitStatus, print_error, print_errors, print_interrupt
from sutro_async.cli._fake import DEFAULT_JOBS, parse_jobs, run_demo, serve
from sutro_async.cli._options import output_options, parse_time, read_ids, service_options
from sutro_async.cli._process import run_loop
from sutro_async.cli._show import Output, show_list, show_records, show_statuses
from sutro_async.cli._wait import read_records, wait_for_all
from sutro_async.testing import FakeSutro

__all__ = ["cli", "run"]

_PROGRAM: Final = "sutro-async"
_BULK_FROM: Final = 10  # jobs; a page of the list costs more than a poll

Connect = Callable[..., SutroClient]
"""Makes a client; takes a `PollPolicy`."""


def run(arguments: Sequence[str]) -> int:
    """Run a command, and return its exit status.

    Raises:
        KeyboardInterrupt: It was interrupted.
        OSError: The output cannot be written.
        SutroError: An error that concerns all jobs.
    """
    # The shell asks for completions; `cli.main` prints them and exits. It is not used for all else,
    # since it handles interrupts and broken pipes in its own way.
    if os.environ.get("_SUTRO_ASYNC_COMPLETE"):
        cli.main(list(arguments), _PROGRAM)
    try:
        with cli.make_context(_PROGRAM, list(arguments)) as context:
            return int(cli.invoke(context))
    except click.exceptions.Exit as end:  # of --help and --version
        return end.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else _PROGRAM
        print_error(f"Error: {error.format_message()}", f"See `{command} --help`.")
        return ExitStatus.USAGE


_jobs = click.argument("jobs", nargs=-1, required=True, metavar="JOB...")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog="The key is taken from SUTRO_API_KEY, or from where `sutro login` has stored it."
    " JOB is a job id, @PATH the ids in a file, - those on standard input.",
)
@click.version_option(__version__, message=f"{_PROGRAM} %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """Check Sutro batch jobs, and wait for them.

    New here? `sutro-async demo` needs no key and no network.
    """
    if context.invoked_subcommand is None:
        print_error(context.get_help())
    return ExitStatus.USAGE


@cli.command(epilog="Example: sutro-async status job-12345 job-12346")
@_jobs
@output_options
@service_options
def status(jobs: tuple[str, ...], *, connect: Connect, output: Output) -> int:
    """Print the statuses of jobs.

    CSV has the columns of `job`; those that are not in a status are empty.
    """
    job_ids = read_ids(jobs, sys.stdin)

    async def request() -> list[Entry]:
        async with connect() as client:
            outcomes = (await client.get_job_statuses(job_ids)).values()
            entries = [Entry(job_id=o.job_id, report=o.value, error=o.error) for o in outcomes]
            await _add_reasons(client, entries)
        return entries

    return _print(run_loop(request()), output, report_fields, show_statuses)


async def _add_reasons(client: SutroClient, entries: list[Entry]) -> None:
    """Add why jobs failed, from their records, where their statuses do not say so; best effort."""
    unexplained = {
        entry.job_id: entry
        for entry in entries
        if entry.report is not None
        and entry.report.status is JobStatus.FAILED
        and not str(entry.report.failure or "").strip()
    }

    def note(record: Job) -> None:
        entry = unexplained[record.job_id]
        if entry.report is not None and record.failure is not None:
            entry.report = attrs.evolve(entry.report, failure=record.failure)

    await read_records(client, list(unexplained), note)


@cli.command(epilog="Example: sutro-async job job-12345 --full")
@click.option("--full", is_flag=True, help="Print long values, such as the prompt, in full.")
@_jobs
@output_options
@service_options
def job(jobs: tuple[str, ...], *, full: bool, connect: Connect, output: Output) -> int:
    """Print the records of jobs."""
    job_ids = read_ids(jobs, sys.stdin)

    async def request() -> list[Entry]:
        async with connect() as client:
            outcomes = (await client.get_jobs(job_ids)).values()
        return [Entry(job_id=o.job_id, record=o.value, error=o.error) for o in outcomes]

    show = functools.partial(show_records, full=full)
    return _print(run_loop(request()), output, record_fields, show)


@cli.command("list", epilog="Example: sutro-async list --unfinished --ids | sutro-async wait -")
@click.option("--unfinished", is_flag=True, help="Leave out the jobs that have finished.")
@click.option("--ids", "ids_only", is_flag=True, help="Print only the ids, one per line.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Print at most this many jobs; by default all of the account.",
)
@output_options
@service_options
def list_(
    *, unfinished: bool, ids_only: bool, limit: int | None, connect: Connect, output: Output
) -> int:
    """Print the jobs of the account, newest first."""
    if ids_only and output.is_data:
        raise click.UsageError(f"--ids and --format {output.format} exclude each other")
    entries: list[Entry] = []

    async def request() -> None:
        async with connect() as client, client.list_jobs() as jobs:
            async for each in jobs:
                if unfinished and each.is_terminal:
                    continue
                entries.append(Entry(job_id=each.job_id, record=each))
                if ids_only:
                    print(each.job_id, flush=True)  # the next command need not wait for all pages
                if len(entries) == limit:
                    return

    run_loop(request())
    if not ids_only:
        _print(entries, output, record_fields, show_list)
    return ExitStatus.OK


def _print(
    entries: list[Entry],
    output: Output,
    fields: Callable[[Entry], dict[str, Any]],
    show: Callable[[Output, list[Entry]], None],
) -> int:
    """Print what is known of jobs, then their errors, and return the exit status."""
    if output.format == "json":
        for entry in entries:
            write_json(fields(entry))
    elif output.format == "csv":
        write_csv(entries, raw=output.raw)
    else:
        show(output, entries)
    sys.stdout.flush()  # before the errors
    print_errors([entry.error for entry in entries if entry.error])
    return exit_status(entries)


@cli.command(epilog="Example: sutro-async wait @ids.txt --timeout 2h")
@click.option(
    "--timeout",
    callback=parse_time,
    metavar="TIME",
    help="Give up after this time: 90 (seconds), 10m, 1.5h; 0 polls once.",
)
@click.option(
    "--interval",
    callback=parse_time,
    metavar="TIME",
    help="The time between two polls of a job; by default 1s at first, growing to 15s.",
)
@click.option(
    "--bulk",
    is_flag=True,
    help="Read the list of jobs rather than poll each; for ten jobs or more.",
)
@_jobs
@output_options
@service_options
def wait(
    jobs: tuple[str, ...],
    *,
    timeout: float | None,
    interval: float | None,
    bulk: bool,
    connect: Connect,
    output: Output,
) -> int:
    """Wait until jobs have finished, and print what they cost.

    Ending the wait never cancels a job.
    """
    board = Board(read_ids(jobs, sys.stdin))
    poll = PollPolicy() if interval is None else PollPolicy(initial=interval, maximum=interval)
    if bulk:
        poll = attrs.evolve(poll, bulk_from=_BULK_FROM)

    async def request() -> None:
        async with connect(poll) as client:
            await wait_for_all(client, board, output, timeout=timeout)

    try:
        run_loop(request())
    except KeyboardInterrupt:
        unfinished = [entry for entry in board.entries if entry.over_at is None or entry.is_early]
        print_interrupt(len(unfinished), len(board.entries))
        raise
    print_errors([entry.error for entry in board.entries if entry.error], len(board.entries))
    return exit_status(board.entries)


@cli.command(epilog="Example: sutro-async fake --job job-1=queued:2,running:5,succeeded")
@click.option(
    "--job",
    "jobs",
    multiple=True,
    metavar="ID=TIMELINE",
    help="A job, and its statuses with the seconds that each lasts; may be repeated.",
)
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65_535),
    metavar="NUMBER",
    help="The port to listen on; by default a free one.",
)
@click.option(
    "--dialect",
    type=click.Choice(["mapping", "flat"]),
    default="mapping",
    help="The form of the responses: of the deployed service, or of its API reference.",
)
@click.option(
    "--failure-reason",
    default="no GPU was free",
    show_default=True,
    metavar="TEXT",
    help="The reason of all jobs that fail.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as a JSON object.")
def fake(
    jobs: tuple[str, ...],
    *,
    port: int,
    dialect: Literal["mapping", "flat"],
    failure_reason: str,
    as_json: bool,
) -> NoReturn:
    """Run a fake Sutro service on this machine, to play with.

    It serves until Ctrl-C. The seconds of a timeline count from the start. Statuses without
    seconds change with each request: each response has the next one.
    """
    if not failure_reason.strip():
        raise click.UsageError("--failure-reason must not be empty")
    service = FakeSutro(dialect=dialect, port=port)
    planned = parse_jobs(jobs) or DEFAULT_JOBS
    for job_id, timeline in planned.items():
        reason = failure_reason if timeline[-1] == "failed" else None
        service.add_job(job_id, timeline, failure_reason=reason)
    run_loop(serve(service, list(planned), as_json=as_json))


@cli.command(epilog="Example: sutro-async demo")
@output_options
def demo(*, output: Output) -> int:
    """Wait for six jobs on a fake service.

    It needs no key and no network, and takes a few seconds.
    """
    return run_loop(run_demo(output))
