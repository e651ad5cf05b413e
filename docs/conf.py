"""The documentation site: Sphinx over the Markdown pages of the whole repository.

The source folder is the repository's root, so that a page lies beside what it is about
(`workflows/CLUSTER.md`), is written once, and its relative links hold here and in the repository.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pygments.lexers import JavascriptLexer, PythonLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

# Sphinx would import them while it pretends to type checkers, which pydantic does not survive.
import workflows.dos.gpaw.ase_makers  # noqa: E402
import workflows.dos.gpaw.maker  # noqa: E402
import workflows.dos.vasp.maker  # noqa: E402, F401

project = "edos-screening"
author = "The edos-screening maintainers"
copyright = author
release = importlib.metadata.version("edos-screening")

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "db/QUERIES.md",
    "models/zoo/**.md",
    "screening/examples/*.ipynb",
    "tests/benchmarks/results/*.md",
    "workflows/CLUSTER.md",
    "workflows/dos/results/*.md",
]
exclude_patterns = [".*", "**/_build", "**/__pycache__"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
default_role = "code"  # of docstrings
suppress_warnings = [
    "ref.python",  # two classes of one name, in two packages
]
nb_execution_mode = "off"  # tests/screening/test_example.py runs it
nb_number_source_lines = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more
autodoc_default_options = {"members": True, "ignore-module-all": True}
napoleon_google_docstring = False
napoleon_use_rtype = False

nitpicky = True
# Our public names must lead somewhere. Other projects are not asked for theirs in a build.
nitpick_ignore_regex = [
    ("py:.*", r"(?!(db|models|screening|workflows)\.).*"),
    ("py:data", ".*"),  # constants that a comment explains
    ("py:.*", r".*\._\w+"),
]

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_extra_path = ["_extra"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_sidebars = {f"docs/{name}": [] for name in ("start", "science", "limits")}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_exclude = ".linenos, .gp, .go"


def _add_commands(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append what the commands say of themselves to the page of the command reference."""
    if docname != "docs/commands":
        return
    import typer
    from typer.cli import get_docs_for_click

    from screening.cli.app import app as program

    command = typer.main.get_command(program)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="screen")
    examples = r"^Examples:\n\n((?:screen .+\n\n)+)"
    text = re.sub(examples, lambda found: _block(found[1]), text, flags=re.MULTILINE)
    source[0] += text[text.index("## ") :].replace("```console\n$ ", "```text\n")


def _block(lines: str) -> str:
    return "**Examples**:\n\n```text\n" + lines.replace("\n\n", "\n") + "```\n\n"


def _mathml(node: nodes.math | nodes.math_block) -> str:
    # docutils would put the index of an accented letter below it.
    formula = re.sub(r"(\\(?:hat|bar|tilde) \w)_", r"{\1{}}_", node.astext())
    return tex2mathml(formula, as_block=isinstance(node, nodes.math_block))


def _visit_inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(_mathml(node))
    raise nodes.SkipNode


def _visit_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    number = f'<span class="eqno">({node["number"]})</span>' if node["number"] else ""
    ids = "".join(f' id="{name}"' for name in node["ids"][:1])
    writer.body.append(f'<div class="formula" tabindex="0"{ids}>{_mathml(node)}{number}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """MathML, which browsers draw themselves: no script, and nothing from elsewhere."""
    app.add_lexer("pymongo", PythonLexer)
    app.add_lexer("mongosh", JavascriptLexer)
    app.connect("source-read", _add_commands)
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))


html_math_renderer = "mathml"
