"""How Sphinx builds these pages: `sphinx-build -W --keep-going -n docs docs/_build/html`."""

import builtins
import re
import sys
import urllib.error
import urllib.request
from importlib import metadata
from typing import Any

import attrs
from sphinx.application import Sphinx

import sutro_async

project = "sutro_async"
author = "The sutro_async developers"
project_copyright = "2026, The sutro_async developers"
release = version = metadata.version("sutro-async")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
pygments_dark_style = "a11y-high-contrast-dark"
html_title = "sutro_async"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/sutro-async/sutro-async/",
    "source_branch": "main",
    "source_directory": "docs/",
}

myst_enable_extensions = ["colon_fence", "deflist", "html_image"]
myst_heading_anchors = 3

# -- the API reference, out of the docstrings ------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
# In docstrings, a name in single backticks is a link where there is something to link to.
default_role = "py:obj"

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_QUOTED = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def _read_as_markdown(*arguments: Any) -> None:  # noqa: ANN401 - as Sphinx calls it
    """Let docstrings have fences and single backticks, which read best in an editor."""
    lines: list[str] = arguments[-1]
    text = _FENCED.sub(_directive, "\n".join(lines))
    lines[:] = _QUOTED.sub(_name_or_literal, text).split("\n")


def _directive(block: re.Match[str]) -> str:
    indent, language, code = block.groups()
    body = "".join(f"    {line}" if line.strip() else line for line in code.splitlines(True))
    return f"{indent}.. code-block:: {language or 'text'}\n\n{body}"


def _name_or_literal(quoted: re.Match[str]) -> str:
    if quoted[1] in sutro_async.__all__:
        return f"`~sutro_async.{quoted[1]}`"
    return quoted[0] if re.fullmatch(r"[\w.]+", quoted[1]) else f"`{quoted[0]}`"


def _show_as_users_see_it(*arguments: Any) -> tuple[str, str | None] | None:  # noqa: ANN401 - likewise
    """Show the defaults of an attrs class as they are."""
    _, _, _, documented, _, signature, returned = arguments
    if attrs.has(documented):
        defaults = {name: field.default for name, field in attrs.fields_dict(documented).items()}
        signature = re.sub(
            r"attr_dict\['(\w+)'\]\.default", lambda match: repr(defaults[match[1]]), signature
        )
        return signature.replace("NOTHING", "…"), returned
    return None


def setup(app: Sphinx) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-docstring", _read_as_markdown, priority=100)
    app.connect("autodoc-process-signature", _show_as_users_see_it)


# -- links to other projects -----------------------------------------------------------------------

_INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "aiohttp": "https://docs.aiohttp.org/en/stable/",
    "attrs": "https://www.attrs.org/en/stable/",
}
_PROBE_SECONDS = 3


def _is_reachable(url: str) -> bool:
    request = urllib.request.Request(url + "objects.inv", method="HEAD")  # noqa: S310 - https, above
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):  # noqa: S310 - likewise
            return True
    except (OSError, urllib.error.URLError):
        return False


# Without a network the pages are the same but for these links.
intersphinx_mapping = {
    name: (url, None) for name, url in _INVENTORIES.items() if _is_reachable(url)
}

_STANDARD_LIBRARY = "|".join({*sys.stdlib_module_names, *dir(builtins)})
_MODULES = {"python": _STANDARD_LIBRARY, "aiohttp": "aiohttp", "attrs": "attrs?"}

nitpick_ignore_regex = [
    ("py:obj", r".*"),  # names in docstrings, of whatever they are
    ("py:class", r"sutro_async\.models\.T"),  # a type variable
    ("py:class", r"collections\.abc\.Mapping\[str"),  # Sphinx splits it at the comma
    ("py:class", r"sutro_async\.fastapi\._lifespan\.get_\w+"),  # functions, in an Annotated
    ("py:.*", r"(fastapi|starlette|pydantic)\..*"),  # they publish no inventory
    *(
        ("py:.*", rf"({modules})(\..*)?")
        for name, modules in _MODULES.items()
        if name not in intersphinx_mapping
    ),
]
