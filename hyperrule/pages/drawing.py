"""Draws figures with matplotlib as SVG elements of a page, in its fonts and its light and dark colours."""

import re
import warnings
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

# Placeholder colours: what matplotlib draws in one of these gets a colour of the page's style sheet.
INK, SOFT, LINE, BLUE, ORANGE, RED = (f"#0102{number:02x}" for number in range(6))
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", BLUE: "bar", ORANGE: "accent", RED: "error"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # class names may hold dollars
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 11,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}
WIDEST = 1.5  # times the size that a figure was drawn for
PERCENT = PercentFormatter(1, decimals=0, symbol="\N{NO-BREAK SPACE}%")
SHORT = FuncFormatter(lambda value, _: f"{value:,.0f}" if value == round(value) else f"{value:,g}")


def step_axis(axes: Axes) -> None:
    """Label the x axis with training steps, which are whole numbers."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(SHORT)


class Drawing:
    """A figure: `with drawing as axes:` draws it, after which `drawing.svg` is the SVG element.

    `name` is one word, unique on the page. `description` is the text for screen readers. Width and height are in
    pixels at full size.
    """

    svg: Markup

    def __init__(self, name: str, description: str, width: float = 380, height: float = 215) -> None:
        self.name, self.description = name, description
        self.size = (width / 72, height / 72)

    def __enter__(self) -> Axes:
        self._style = matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name})
        self._style.__enter__()
        self.figure = Figure(self.size, layout="constrained")
        axes: Axes = self.figure.add_subplot()
        return axes

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self.svg = _inline(self.figure, self.name, self.description)
        finally:
            self._style.__exit__(*error)


def _inline(figure: Figure, name: str, description: str) -> Markup:
    """Return the SVG element, without size so that it fills the width available; equal figures give equal text."""
    drawn = StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has them
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view is not None
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", _as_the_page_has_it, body)  # tags only: text must stay unchanged
    body = re.sub(r"\s*\n\s*", "\n", body)
    widest = f"max-width:{WIDEST * figure.get_figwidth() * 72:.0f}px"
    opened = f'<svg role="img" aria-label="{escape(description)}" viewBox="{view[1]}" style="{widest}">'
    return Markup(f"{opened}{body}</svg>")


def _as_the_page_has_it(tag: re.Match[str]) -> str:
    """Return the tag without fonts and without ids that other figures have too, in the page's colours."""
    text = re.sub(r'<g id="[^"]*"', "<g", tag[0])
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    text = re.sub(r" ?font-family: [^;\"]+;?", "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
