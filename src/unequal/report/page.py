"""Self-contained HTML pages: tags that escape their content, pictures and charts inlined."""
import base64
import csv
import html
import io
import re
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from unequal.data import pictures
from unequal.report import tables
from unequal.system.text import to_cells


class Html(str):
    """Text that is HTML already; any other text is escaped."""


def tag(element: str, /, *content: Any, **attributes: Any) -> "Html":
    """An element.

    Parameters
    ----------
    element : str
        Its name.
    content : Html, str or number
        Escaped, unless it is :class:`Html`.
    attributes : str
        ``class_`` is ``class`` and ``http_equiv`` is ``http-equiv``.
    """
    named = ((name.rstrip("_").replace("_", "-"), html.escape(str(value)))
             for name, value in attributes.items())
    head = "".join(f' {name}="{value}"' for name, value in named)
    start = Html(f"<{element}{head}>")
    if element in ("img", "meta", "source"):  # they have no end
        return start
    return Html(f"{start}{join(*content)}</{element}>")


def join(*content: Any) -> "Html":
    """Contents one after the other, escaped where they are not :class:`Html`."""
    return Html("".join(item if isinstance(item, Html) else html.escape(str(item))
                        for item in content))


def data_uri(kind: str, data: bytes) -> str:
    """The bytes of a file as a ``data:`` URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture(data: Union[bytes, np.ndarray], source: str, description: str) -> "Html":
    """An encoded picture as ``<img>``: a JPEG byte for byte, anything else turned into one.

    Parameters
    ----------
    data : bytes or numpy.ndarray
        As :func:`unequal.data.pictures.decode` takes it.
    source : str
        Its name in an error.
    description : str
        The ``alt`` text.
    """
    if isinstance(data, bytes) and pictures.jpeg_frame(data) is not None:
        jpeg = data
    else:
        jpeg = pictures.encode(pictures.decode(data, source), 95)
    return tag("img", src=data_uri("image/jpeg", jpeg), alt=description)


# Ink, grid, and the lines in their order (Okabe and Ito's colours, which the colour-blind can tell
# apart, lightened for a dark page).
THEMES = {
    "light": ("#3a4149", "#d5d9de", (
        "#0072b2", "#d55e00", "#009e73", "#b5589a", "#b8860b", "#56a0c8", "#6b7280")),
    "dark": ("#b9c0c8", "#3a4149", (
        "#4fa8e0", "#f08a3c", "#3cc39a", "#dd8fc2", "#e0b84a", "#8fd0f2", "#a3abb5")),
}
LINES = len(THEMES["light"][2])
DASHES = ("-", "--", ":", "-.")  # of the first LINES lines, the next, ...; `.dash1` ... below
INK = "ink"  # in place of a line's number: the colour of text


def chart(draw: Callable, description: str, size: Tuple[float, float] = (3.5, 2.6)) -> "Html":
    """A chart as ``<picture>``, drawn once for light pages and once for dark ones.

    Parameters
    ----------
    draw : callable
        Takes empty matplotlib axes and a function from a line's number (or :data:`INK`) to its
        colour.
    description : str
    size : tuple of float
        Width and height in inches; the page scales it.

    Raises
    ------
    InputError
        When matplotlib is missing.
    """
    drawn = {}
    for theme, (ink, grid, colors) in THEMES.items():
        look = {"svg.hashsalt": "unequal", "figure.constrained_layout.use": True, "font.size": 9,
                "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink,
                "axes.edgecolor": grid, "grid.color": grid, "grid.linewidth": 0.6,
                "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                "axes.axisbelow": True, "lines.linewidth": 1.4}

        def color(line: Any, ink: Any = ink, colors: Any = colors) -> Any:
            return ink if line == INK else colors[line % len(colors)]

        with tables.style("unequal report", look):
            figure = tables.new_figure("unequal report", size)
            draw(figure.add_subplot(), color)
            svg = io.BytesIO()
            # Without a date, so that the same run gives the same page.
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        drawn[theme] = data_uri("image/svg+xml", svg.getvalue())
    return tag("picture",
               tag("source", media="(prefers-color-scheme: dark)", srcset=drawn["dark"]),
               tag("img", src=drawn["light"], alt=description, class_="chart"))


def figure(*parts: Any) -> "Html":
    """A picture or chart and its caption, in the order given; the caption is the text."""
    return tag("figure", *(part if isinstance(part, Html) else tag("figcaption", part)
                           for part in parts))


def table(header: List[str], rows: Iterable[Iterable["Html"]]) -> "Html":
    """A table; ``rows`` of cells that are ``<td>`` already.

    On a phone the first cell of a row stands above the others; with more than :data:`NARROW`
    columns, each other cell then shows its column's name. Below the table is a link to its content
    as CSV, inside the page itself.
    """
    lines = [list(row) for row in rows]
    wide = {"class_": "wide"} if len(header) > NARROW else {}
    body = [[_labelled(cell, name) for cell, name in zip(row, header)] if wide else row
            for row in lines]
    # Where a long name of a set may be broken.
    names = [tag("th", Html(html.escape(name).replace("_", "_<wbr>"))) for name in header]
    return tag("div", tag("table", tag("thead", tag("tr", *names)),
                          tag("tbody", *(tag("tr", *row) for row in body)), **wide),
               tag("a", "CSV", href=data_uri("text/csv", as_csv(header, lines)),
                   download="table.csv", class_="csv"), class_="scroll")


NARROW = 6  # columns that stand side by side on a phone


def _labelled(cell: "Html", name: str) -> "Html":
    """A ``<td>`` with its column's name as an attribute."""
    return Html(cell.replace("<td", f'<td data-name="{html.escape(name)}"', 1))


def as_csv(header: List[str], rows: List[List["Html"]]) -> bytes:
    """The text of a table's cells as CSV, UTF-8; the stars of best values are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(to_cells(html.unescape(re.sub(r"<[^>]*>", "", str(cell))).replace("★ ", "")
                              for cell in row) for row in rows)
    return text.getvalue().encode()


def sections(parts: Iterable[Tuple[str, "Html"]]) -> "Html":
    """Sections with a list of links to them; ``parts`` of (heading, content)."""
    parts = list(parts)
    names = [f"s{number}" for number in range(len(parts))]
    links = [tag("li", tag("a", heading, href="#" + name))
             for name, (heading, _) in zip(names, parts)]
    return join(tag("nav", tag("ul", *links), aria_label="sections"),
                *(tag("section", tag("h2", heading, id=name), content)
                  for name, (heading, content) in zip(names, parts)))


def legend(names: List[str]) -> "Html":
    """A legend: the colours, and beyond :data:`LINES` lines the dashes, of lines 0, 1, ..."""
    return tag("ul", *(tag("li", tag("i", class_=(
        f"line{line % LINES} dash{line // LINES % len(DASHES)}")), name)
        for line, name in enumerate(names)), class_="legend")


def thinned(x: Sequence[float], y: Sequence[float],
            most: int = 300) -> Tuple[Sequence[float], Sequence[float]]:
    """At most ``most`` points of a long noisy curve, each the mean of its neighbours."""
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    means = [[float(np.mean(np.asarray(values)[part])) for part in parts] for values in (x, y)]
    return means[0], means[1]


def smoothed(values: Sequence[float], weight: Optional[float] = None) -> List[float]:
    """Exponential moving average that begins at the mean of what has been seen (no bias to 0).

    Parameters
    ----------
    values : sequence of float
    weight : float, optional
        Weight of the previous average, in [0, 1). Default: 0.9 for 100 values or more, less for
        fewer (a mean over a tenth of them), so that a short curve does not lag behind its values.
    """
    if weight is None:
        weight = min(0.9, max(0.0, 1 - 10 / max(1, len(values))))
    total, seen, result = 0.0, 0.0, []
    for value in values:
        total = weight * total + (1 - weight) * value
        seen = weight * seen + (1 - weight)
        result.append(total / seen)
    return result


def _variables(theme: str) -> str:
    ink, grid, colors = THEMES[theme]
    lines = ";".join(f"--line{line}:{color}" for line, color in enumerate(colors))
    return f"--ink:{ink};--grid:{grid};{lines}"


STYLE = """
:root{color-scheme:light dark;--page:#fff;--card:#f5f6f8;--text:#1c2025;--good:#0a7a4b;
--bad:#b3261e;%(light)s}
@media (prefers-color-scheme:dark){:root{--page:#15181c;--card:#1e2227;--text:#e6e9ec;
--good:#56c896;--bad:#ff8a80;%(dark)s}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.25rem;margin:3rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--grid)}
h3{font-size:1rem;margin:1.6rem 0 .3rem}
p,ul,dl{max-width:46rem;margin:.5rem 0}
.quiet,figcaption,footer,dd{color:var(--ink)}
small,figcaption,.cards p{font-size:.82rem;line-height:1.4}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .9rem;text-align:right;border-bottom:1px solid var(--grid)}
td{white-space:nowrap}
th{vertical-align:bottom}
td:first-child{white-space:normal}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{color:var(--ink);font-weight:600}
.best{font-weight:700;color:var(--good)}
dt{font-weight:600;margin-top:.6rem}
dd{margin:0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(17.5rem,1fr));gap:1rem}
figure{margin:0}
.charts figcaption{font-weight:600;margin-bottom:.2rem}
.chart{width:100%%;height:auto;display:block}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;font-size:.88rem;
max-width:none}
.legend i{display:inline-block;width:1.6rem;border-top:.2rem solid;margin-right:.4rem;
vertical-align:middle}
.dash1{border-top-style:dashed !important}.dash2{border-top-style:dotted !important}
.dash3{border-top-style:double !important}
%(lines)s
.map{max-width:34rem}
.sides{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:center}
.beside{flex:1 1 17rem;max-width:22rem}
.sides .scroll{flex:1 1 22rem}
.sides table{font-size:.88rem}
.sides th,.sides td{padding:.4rem .5rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.9rem;
margin:1rem 0}
.cards article{background:var(--card);border-radius:.5rem;padding:.8rem}
.cards p{margin:.35rem 0 0}
.faces{display:flex;gap:.6rem;align-items:flex-end}
.faces img{display:block;width:4rem;height:auto;border-radius:.25rem}
.cards:not(.pairs) .faces figure:first-child img{width:5.5rem}
.pairs{grid-template-columns:repeat(auto-fill,minmax(18rem,1fr))}
.pairs .faces{justify-content:space-between}
.row{display:flex;gap:2px}
.row img{width:2.6rem}
.hit,.miss{font-weight:600}
.hit{color:var(--line0)}
.miss{color:var(--ink)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;list-style:none;font-size:.9rem}
a{color:var(--line0)}
.csv{font-size:.8rem}
pre{background:var(--card);border-radius:.5rem;padding:.8rem 1rem;white-space:pre-wrap;
overflow-wrap:anywhere;font:.8rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media (max-width:40rem){th,td{padding:.4rem .3rem}table{font-size:.85rem}}
@media (max-width:30rem){main{padding:1.2rem .8rem}table{width:100%%}
thead tr,tbody tr{display:flex;flex-wrap:wrap;border-bottom:1px solid var(--grid)}
th,td{flex:1 1 0;border:0;overflow-wrap:anywhere}
th{font-size:.74rem}
th:first-child{display:none}td:first-child{flex:0 0 100%%;font-weight:600;padding-bottom:0}
.wide thead{display:none}
.wide td{flex:1 0 100%%;display:flex;justify-content:space-between;gap:1rem;padding:.1rem 0;
white-space:normal}
.wide td:not(:first-child)::before{content:attr(data-name);color:var(--ink);text-align:left}
.charts{grid-template-columns:1fr}}
footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--grid);font-size:.88rem}
""" % {"light": _variables("light"), "dark": _variables("dark"),
       "lines": "".join(f".line{line}{{color:var(--line{line})}}"
                        for line in range(LINES))}


def document(title: str, *content: Any) -> str:
    """The whole page. It forbids browsers to fetch anything."""
    head = tag(
        "head", tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title), tag("style", Html(STYLE)))
    whole = tag("html", head, tag("body", tag("main", *content)), lang="en")
    return f"<!doctype html>\n{whole}\n"
