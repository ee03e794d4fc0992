"""Renders a page from a template and values. Every value is escaped, unless it is marked as HTML."""

from typing import Any

import jinja2

from hyperrule import __version__
from hyperrule.support.wording import number, printable


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template, given by its path in the package. Raises UndefinedError if a value is missing."""
    return _environment().get_template(template).render(version=__version__, **values)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hyperrule", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "shown": printable,
        "count": "{:,}".format,
        "of": number,
        "percent": percent,
    }
    return environment


def percent(fraction: float, digits: int = 1) -> str:
    r"""
    Return a percentage. Only a fraction of exactly 1 gives 100 %; others are rounded to less.

    >>> percent(0.9876), percent(1.0), percent(0.98765, 2), percent(0.99999)
    ('98.8\xa0%', '100\xa0%', '98.77\xa0%', '99.9\xa0%')
    """
    highest = 100 - 10.0**-digits
    shown = "100" if fraction == 1 else f"{min(100 * fraction, highest):.{digits}f}"
    return f"{shown}\N{NO-BREAK SPACE}%"
