"""Copy the tests and what they read to a directory without the sources of the library.

Usage: python .ci/copy_tests.py CHECKOUT DIRECTORY
"""

import shutil
import sys
from pathlib import Path


def main() -> None:
    checkout, directory = map(Path, sys.argv[1:])
    for name in ("tests", "docs", "README.md", "pyproject.toml"):
        source, target = checkout / name, directory / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


if __name__ == "__main__":
    main()
