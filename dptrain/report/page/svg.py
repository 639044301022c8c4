"""A matplotlib figure as inline SVG that follows the page's colours: light, dark and print from one picture.

Figures are drawn in stand-in colours (`INK`, `arm_color(i)`, ...); each is replaced by a CSS variable with a fallback
for files that stand alone. Text stays text. Identifiers get the figure's own prefix, because a page holds many.
"""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dptrain.report.charts import Look

INK, QUIET, GRID, BAND, PAPER = "#010101", "#010102", "#010103", "#010104", "#010105"
"""Stand-ins for text, axes, grid lines, the band of chance and the page itself."""
THEME = {
    INK: ("--ink", "#1a1a1a"),
    QUIET: ("--quiet", "#595959"),
    GRID: ("--grid", "#e6e6e6"),
    BAND: ("--band", "#e0e0e0"),
    PAPER: ("--paper", "#ffffff"),
}
STYLE: Mapping[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.5,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


def arm_color(place: int) -> str:
    """Stand-in for the colour of the arm at this place."""
    return f"#0101{0x20 + place:02x}"


def dark_twin(color: str) -> str:
    """The colour for a dark page: the same hue, light enough to be seen (luminance at least 0.3)."""
    hue, light, full = colorsys.rgb_to_hls(*to_rgb(color))
    while light < 0.95:
        red, green, blue = colorsys.hls_to_rgb(hue, light, full)
        if 0.2126 * red + 0.7152 * green + 0.0722 * blue >= 0.4:
            break
        light += 0.02
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, light, min(full, 0.9)))


def arm_variables(looks: Sequence[Look], dark: bool) -> str:
    """CSS declarations of the arms' colours."""
    return " ".join(
        f"--arm{place}: {dark_twin(look.color) if dark else look.color};" for place, look in enumerate(looks)
    )


def new_figure(width: float, height: float) -> Figure:
    """A transparent figure, sizes in CSS pixels."""
    figure = Figure(figsize=(width / 96.0, height / 96.0), dpi=96)
    figure.patch.set_alpha(0.0)
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Figure, name: str, title: str, description: str, looks: Sequence[Look]) -> str:
    """The figure as an `<svg>` element with title and description for those who do not see it."""
    stream = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    for color, (variable, light) in _variables(looks).items():
        text = text.replace(color, f"var({variable}, {light})")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    # Coordinates to a hundredth of a pixel; numbers that are read stay as they are.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d{2})\d+", r"\1", tag[0]), text)
    text = re.sub(r"\n\s*", "\n", text)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return head + text[text.index(">") + 1 :]


def _variables(looks: Sequence[Look]) -> dict[str, tuple[str, str]]:
    return THEME | {arm_color(place): (f"--arm{place}", look.color) for place, look in enumerate(looks)}
