"""The site: `sphinx-build docs docs/_build`, with the extra `lessons` installed."""

import importlib.metadata

project = "Hornbook"
author = "The Hornbook authors"
release = version = importlib.metadata.version("hornbook")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
html_theme = "alabaster"
html_theme_options = {"description": "A language model from scratch"}
