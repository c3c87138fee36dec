"""The site: `sphinx-build -W --keep-going docs docs/_build`, with the extra `docs` installed. It needs no network."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Hornbook"
author = "The Hornbook authors"
copyright = "The Hornbook authors. MIT licence."
release = version = importlib.metadata.version("hornbook")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_reference", "mathml"]
exclude_patterns = ["_build", "_ext"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_rtype = False
smartquotes_action = "D"  # dashes; quotation marks stay as they are written
default_role = "code"  # docstrings write `name`, as Markdown does

html_theme = "furo"
pygments_dark_style = "github-dark"  # the theme's own underlines names as if they were links
html_title = f"Hornbook {version}"
html_static_path = ["_static"]
html_css_files = ["hornbook.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
