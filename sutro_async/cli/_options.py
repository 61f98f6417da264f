"""Options and arguments: times, job ids, the service, and the output."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, TextIO

import click

from sutro_async import PollPolicy, SutroClient
from sutro_async.cli._errors import print_error
from sutro_async.cli._show import Format, open_output

__all__ = ["check_id", "output_options", "parse_time", "read_ids", "service_options"]

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_MAX_KEY_LENGTH: Final = 65_536

Command = Callable[..., int]


def parse_time(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> float | None:
    """Read a time such as `90` or `90s`, `10m`, `1.5h`; return seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([smh]?)", text.strip(), re.ASCII)
    if match is None:
        raise click.BadParameter(
            f"{text!r} is not a duration such as 90, 10m or 1.5h", context, parameter
        )
    return float(match[1]) * _SECONDS[match[2]]


def output_options(command: Command) -> Command:
    """Add `--format`, `--json` and `--raw`; the command gets them as `output`."""

    @click.option(
        "--format",
        "wanted",
        type=click.Choice(["table", "plain", "json", "csv"]),
        help="How to print; by default a table on a terminal, plain lines elsewhere.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
    @click.option("--raw", is_flag=True, help="Print each status as the service sent it.")
    @functools.wraps(command)
    def with_output(*, wanted: Format | None, as_json: bool, raw: bool, **options: object) -> int:
        if as_json and wanted not in {None, "json"}:
            raise click.UsageError(f"--json and --format {wanted} exclude each other")
        return command(output=open_output("json" if as_json else wanted, raw=raw), **options)

    return with_output


def service_options(command: Command) -> Command:
    """Add the options of the service; the command gets them as `connect`, which makes a client."""

    @click.option("--base-url", metavar="URL", help="The service, if not that of SUTRO_API_URL.")
    @click.option(
        "--key-file",
        # The library rejects what is not ASCII, in a message that does not quote it.
        type=click.File(encoding="utf-8-sig", errors="replace", lazy=False),
        metavar="PATH",
        help="A file with the key; - is standard input.",
    )
    @click.option("--proxy", metavar="URL", help="A forward proxy, in place of HTTPS_PROXY.")
    @click.option(
        "--max-concurrency",
        default=20,
        show_default=True,
        type=click.IntRange(min=1),
        metavar="NUMBER",
        help="Requests in flight at once.",
    )
    @click.option(
        "--max-rate", type=float, metavar="NUMBER", help="Requests a second; unlimited by default."
    )
    @functools.wraps(command)
    def with_service(*, key_file: TextIO | None, **options: Any) -> int:  # noqa: ANN401 - of click
        names = ("base_url", "proxy", "max_concurrency", "max_rate")
        settings = {name: options.pop(name) for name in names}
        key = key_file.read(_MAX_KEY_LENGTH) if key_file else None

        def connect(poll: PollPolicy = PollPolicy()) -> SutroClient:  # noqa: B008 - immutable
            return SutroClient(key, poll=poll, **settings)

        return command(connect=connect, **options)

    return with_service


def read_ids(arguments: Iterable[str], stdin: TextIO | None) -> list[str]:
    """Collect job ids, each once; `-` stands for those on standard input, `@PATH` for a file's.

    Raises:
        click.UsageError: There is none, or one that is invalid; or a source cannot be read.
    """
    ids: dict[str, None] = {}
    for argument in arguments:
        if argument == "-" or argument.startswith("@"):
            ids.update(dict.fromkeys(_read_source(argument, stdin)))
            continue
        ids[check_id(argument, "as an argument")] = None
        with suppress(OSError):  # it is longer than a path can be
            if Path(argument).is_file():
                print_error(
                    f"Hint: {argument!r} is also a file; to read job ids from it, use @{argument}"
                )
    if not ids:
        raise click.UsageError("there are no job ids: write one per line")
    return list(ids)


def check_id(job_id: str, where: str) -> str:
    """Return the id.

    Raises:
        click.UsageError: It is invalid; `where` says where it was found.
    """
    if not job_id:
        reason = "it must not be empty"
    elif job_id in {".", ".."}:
        reason = "as a segment of a URL it names another path"
    elif not job_id.isprintable():
        reason = "it must contain printable characters only"
    else:
        return job_id
    raise click.UsageError(f"invalid job id {job_id!r} {where}: {reason}")


def _read_source(argument: str, stdin: TextIO | None) -> Iterator[str]:
    """Read ids, one per line; blank lines and those that begin with `#` are skipped."""
    source = "standard input" if argument == "-" else repr(argument[1:])
    try:
        with ExitStack() as stack:
            if argument != "-":
                path = Path(argument[1:]).expanduser()
                lines: TextIO | None = stack.enter_context(path.open(encoding="utf-8"))
            else:
                lines = stdin
            if lines is None or lines.closed:
                raise click.UsageError(
                    f"{source} is closed: name the jobs, or pipe their ids to it"
                )
            if lines.isatty():
                print_error("Reading job ids, one per line, until Ctrl-D.")
            for number, line in enumerate(lines, start=1):
                # Some programs begin a text with a byte order mark, which is no part of an id.
                job_id = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
                if job_id and not job_id.startswith("#"):
                    yield check_id(job_id, f"on line {number} of {source}")
    except UnicodeDecodeError:
        raise click.UsageError(f"{source} is not text: it must contain job ids") from None
    except OSError as error:
        raise click.UsageError(f"{source} cannot be read: {error.strerror}") from None
