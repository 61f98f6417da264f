"""Job ids, from the arguments and from standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TextIO

import click

from sutro_async.cli._errors import print_error

__all__ = ["check_id", "read_ids"]


def read_ids(arguments: Iterable[str], stdin: TextIO | None) -> list[str]:
    """Collect the ids, each once; `-` stands for those on standard input, one to a line.

    Raises:
        click.UsageError: There is none, or one that is invalid; or standard input is
            closed or no text.
    """
    ids: dict[str, None] = {}
    for argument in arguments:
        if argument == "-":
            ids.update(dict.fromkeys(_read_lines(stdin)))
        else:
            ids[check_id(argument, "as an argument")] = None
    if not ids:
        raise click.UsageError("there are no job ids on standard input: write one to a line")
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


def _read_lines(stdin: TextIO | None) -> Iterator[str]:
    if stdin is None or stdin.closed:
        raise click.UsageError("standard input is closed: name the jobs, or pipe their ids to it")
    if stdin.isatty():
        print_error("Reading job ids, one to a line, until Ctrl-D.")
    try:
        for number, line in enumerate(stdin, start=1):
            # Some programs begin a text with a byte order mark, which is no part of an id.
            job_id = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
            if job_id:
                yield check_id(job_id, f"on line {number} of standard input")
    except UnicodeDecodeError:
        raise click.UsageError("standard input is no text: pipe job ids to it") from None
    except OSError as error:
        raise click.UsageError(f"standard input cannot be read: {error.strerror}") from None
