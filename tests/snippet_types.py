"""Every Python snippet of the pages type-checks, by mypy and by pyright.

The snippets of a page are one function, whose parameters are the names that each snippet finds; a
snippet that is a whole program or file stands alone. Functions without annotations, as tests have
them, are checked inside.

python -m tests.snippet_types
"""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.end_to_end.test_docs import PAGES, files, has_snippets, parse

HEAD = """\
# pyright: reportMissingImports=false, reportUnusedExpression=false
from typing import Any

from fastapi import FastAPI

from sutro_async import JobMonitor, SutroClient
from sutro_async.testing import FakeSutro

open_database: Any  # the user's, as the next
send_mail: Any


async def page(
    client: SutroClient, fake: FakeSutro, monitor: JobMonitor, job_id: str, job_ids: list[str]
) -> None:
{body}
"""

# tqdm and the official SDK have no types; tests have no annotations.
MYPY = [
    *("mypy", "--strict", "--config-file=", "--allow-redefinition-new", "--local-partial-types"),
    *("--disable-error-code=import-untyped", "--disable-error-code=import-not-found"),
    *("--disable-error-code=no-untyped-def", "--disable-error-code=no-untyped-call"),
]
PYRIGHT = ["pyright", "--pythonpath", sys.executable]


def modules() -> Iterator[tuple[str, str]]:
    """The snippets as modules: their names and their texts."""
    for path in PAGES:
        name = path.stem.replace("-", "_").lower()
        for number, text in enumerate(chunks(path) if has_snippets(path) else ()):
            yield f"page_{name}_{number}", HEAD.format(body=textwrap.indent(text, "    "))
    for file, text in (files("as a program") | files("with pytest")).items():
        if file.endswith(".py"):
            yield "file_" + file.removesuffix(".py").replace("/", "_"), text


def chunks(path: Path) -> list[str]:
    """The snippets of a page that belong together, and each whole program by itself."""
    texts = [""]
    is_skipped = False
    for example in parse(path).examples():
        text = example.parsed
        if isinstance(text, str) and not is_skipped:
            if "asyncio.run(" in text:
                texts.append(str(text))
            else:
                texts[0] += text
        is_skipped = not isinstance(text, str)  # by the comment before it
    return [text for text in texts if text.strip()]


def main() -> int:
    """Check them all; return the exit status."""
    with TemporaryDirectory() as folder:
        for name, text in modules():
            Path(folder, f"{name}.py").write_text(text, encoding="utf-8")
        # In that directory, so that pyright does not read the configuration of this project.
        results = [
            subprocess.run([sys.executable, "-m", *command, "."], cwd=folder, check=False)
            for command in (MYPY, PYRIGHT)
        ]
    return max(result.returncode for result in results)


if __name__ == "__main__":
    sys.exit(main())
