"""Settings of the manual; `make docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 (lists the fonts here, not in a notebook)

import leadapron
from leadapron.plugins import KINDS

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "leadapron"
author = "The leadapron developers"
copyright = f"{author}; Apache-2.0"  # noqa: A001 (Sphinx's name for it)
version = release = leadapron.__version__

extensions = [
    "myst_nb",
    "public_api",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "extensions"]
default_role = "code"  # docstrings and help texts write `name`, as Markdown does

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# Each build executes the notebooks: a page with the results of other code would be wrong.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # a notebook that warns doesn't build

registries = {f"{kind.replace('_', ' ')}s": place for kind, place in KINDS.items()}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "NDArray": "NDArray"}
napoleon_use_rtype = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"leadapron {release}"
html_static_path = ["assets"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_sourcelink = False
highlight_language = "text"
pygments_style = "default"
pygments_dark_style = "github-dark"

copybutton_prompt_text = "$ "
