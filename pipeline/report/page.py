"""Put a page together that needs nothing else, and in which only its own code runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bokeh.plotting import figure

LARGEST = 3_000_000
"""Bytes of a page."""
_TEMPLATE = "page.html.j2"


def render(figures: Mapping[str, figure], known: Mapping[str, Any]) -> bytes:
    """Fill the template.

    All text is escaped. Scripts run if the page's policy has their hashes, so a script
    that came with the data would not, nor could the page fetch anything.

    Args:
      figures: by name.
      known: what the template shows, by name.

    Raises:
      ValueError: the page is larger than `LARGEST`.
    """
    import jinja2

    scripts, places = _drawn(figures)
    template = resources.files("pipeline.report").joinpath(_TEMPLATE).read_text()
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.from_string(template).render(
        scripts=scripts, places=places, policy=_policy(scripts), **known
    )
    data = page.encode()
    if len(data) > LARGEST:
        raise ValueError(
            f"a report must have at most {LARGEST} bytes, this one has {len(data)};"
            " choose fewer columns with --column"
        )
    return data


def _drawn(figures: Mapping[str, figure]) -> tuple[list[str], dict[str, str]]:
    """Give scripts to run in order, and by name the HTML where a figure appears."""
    if not figures:
        return [], {}
    from bokeh.document import Document
    from bokeh.embed import components
    from bokeh.resources import Resources

    document = Document()
    with document.models.freeze():  # else each figure costs as much as all before it
        for figure in figures.values():
            document.add_root(figure)

    bokeh = Resources("inline", components=["bokeh"], minified=True, log_level="warn")
    script, places = components(dict(figures), wrap_script=False)
    scripts = [*bokeh.js_raw, script]
    if any("</script" in text.lower() for text in scripts):
        raise AssertionError("Bokeh escapes what would end a script")
    return scripts, places


def _policy(scripts: Sequence[str]) -> str:
    """Give the Content Security Policy of a page with these scripts and no others."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    named = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src {' '.join(named) or chr(39) + 'none' + chr(39)}"
    )
