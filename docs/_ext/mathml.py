"""Mathematics as MathML, which browsers draw themselves: no script, no font and no server is needed to read a formula.

docutils, on which Sphinx stands, translates the LaTeX. What it does not know is a warning, and so fails the build.
"""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)


def translated(node: nodes.Element, block: bool) -> str:
    latex = node.astext().strip()
    if block and "\\\\" in latex and "\\begin" not in latex:
        latex = f"\\begin{{aligned}}{latex}\\end{{aligned}}"
    try:
        return latex2mathml.tex2mathml(latex, as_block=block)
    except MathError as error:
        log.warning("cannot be written as MathML: %s: %s", latex, error, location=node)
        return f"<code>{html.escape(latex)}</code>"


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(translated(node, block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(translated(node, block=True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
