"""The wheel and the sdist contain exactly the expected files."""

import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import sutro_async

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "sutro_async").is_dir(), reason="this is no checkout, so there is nothing to build"
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", directory]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def files_below(*directories):
    """All files except those that running the project creates."""
    return {
        str(path.relative_to(ROOT))
        for directory in directories
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and not {"__pycache__", "_build"} & set(path.parts)
    }


def test_wheel_contains_only_the_package(wheel):
    info = f"sutro_async-{sutro_async.__version__}.dist-info"
    names = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert set(wheel.namelist()) == files_below("sutro_async") | {f"{info}/{n}" for n in names}
    assert "sutro_async/py.typed" in wheel.namelist()


def test_sdist_contains_project_files(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names == files_below("sutro_async", "tests", "docs") | {
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "pyproject.toml",
        ".gitignore",  # hatchling puts it there, so that building from the sdist is the same
    }


def test_wheel_metadata_matches_requirements(wheel):
    fields = metadata(wheel)
    assert fields["Requires-Python"] == ">=3.11"
    required = [text for text in fields.get_all("Requires-Dist") if "extra ==" not in text]
    names = {re.match(r"[\w-]+", text)[0] for text in required}
    assert names == {"aiohttp", "attrs", "cattrs", "tenacity"}
    assert all(">=" in text and "<" not in text for text in required)
    assert set(fields.get_all("Provides-Extra")) == {"cli", "dev", "fastapi"}


def test_classifiers_list_each_supported_python(wheel):
    classifiers = metadata(wheel).get_all("Classifier")
    for version in ("3.11", "3.12", "3.13", "3.14", "3.15"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers


def test_project_urls_exist(wheel):
    for text in metadata(wheel).get_all("Project-URL"):
        _, _, path = text.partition("/main/")
        assert (ROOT / path).exists(), text


def test_newest_changelog_entry_is_this_version_or_unreleased():
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert headings[0] in {"Unreleased", sutro_async.__version__}


def test_dev_extra_has_every_tool_of_the_checks():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    dev = {re.match(r"[\w-]+", text)[0] for text in project["optional-dependencies"]["dev"]}
    assert dev >= {"build", "check-wheel-contents", "mypy", "pyright", "ruff", "sphinx", "twine"}


def test_package_readme_has_absolute_links(wheel):
    readme = metadata(wheel).get_payload()
    assert "](docs/" not in readme
    assert "](CHANGELOG" not in readme
    links = re.findall(
        r"\]\(https://github\.com/sutro-async/sutro-async/blob/main/([^)#]+)", readme
    )
    assert len(links) > 5
    assert all((ROOT / link).is_file() for link in links)
