"""Pages from templates, for phones as well as paper."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadapron.report.words import shown
from leadapron.store import write_atomically

if TYPE_CHECKING:
    import jinja2
    import markupsafe

__all__ = ["render", "write_page"]


def render(template: str, **context: Any) -> str:
    """Return a page.

    Args:
        template: its file's name in `templates`.
        **context: what the template asks for.
    """
    return _labelled(_environment().get_template(template).render(**context))


def write_page(path: Path, template: str, **context: Any) -> Path:
    """Render a page into a file, which is replaced whole, and return its path.

    Args:
        path: the HTML file.
        template: as `render`.
        **context: as `render`.

    Raises:
        StoreError: the file can't be written.
    """
    text = render(template, **context)
    with write_atomically(path) as file:
        file.write(text.encode())
    return path


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("leadapron.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["typeset"] = _typeset
    environment.filters["whole_options"] = _whole_options
    environment.filters["shown"] = shown
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment


def _typeset(text: str) -> str:
    """Typographic minus and multiplication signs, and numbers that stay with their units."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", "\N{MINUS SIGN}", text)
    text = re.sub(r"(?<=\d) x (?=\d)", "\N{NARROW NO-BREAK SPACE}\N{MULTIPLICATION SIGN}"
                  "\N{NARROW NO-BREAK SPACE}", text)  # fmt: skip
    return re.sub(r"(?<=\d) (?=%|px\b)", "\N{NARROW NO-BREAK SPACE}", text)


def _whole_options(text: str) -> markupsafe.Markup:
    """Keep the name of an option on one line; browsers break it after its hyphens."""
    import markupsafe

    escaped = str(markupsafe.escape(text))  # re.sub would escape what it puts into a Markup
    named = re.sub(r"--[\w.-]+", r'<span class="option">\g<0></span>', escaped)
    return markupsafe.Markup(named)  # noqa: S704 (escaped above)


def _labelled(page: str) -> str:
    """Label each cell of a table with its column's heading.

    On a narrow page, the style sheet stacks the cells of a row, each next to its heading.
    """
    return re.sub(r"<table[^>]*>.*?</table>", lambda match: _with_headings(match[0]), page,
                  flags=re.S)  # fmt: skip


def _with_headings(table: str) -> str:
    head, middle, body = table.partition("</thead>")
    headings = [
        re.sub(r"<[^>]+>", "", text).strip()
        for text in re.findall(r"<th\b[^>]*>(.*?)</th>", head, flags=re.S)
    ]
    if not middle or "colspan" in head:
        return table

    def row(match: re.Match[str]) -> str:
        names = iter(headings)
        return re.sub(
            r"<(th|td)\b",
            lambda cell: (
                f'<td data-label="{name}"'
                if (name := next(names, "")) and cell[1] == "td"
                else cell[0]
            ),
            match[0],
        )

    return head + middle + re.sub(r"<tr\b.*?</tr>", row, body, flags=re.S)
