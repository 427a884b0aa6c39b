"""Results for people and for programs: aligned text, JSON, ROC plots."""
import json
import math
import os
from typing import Any, Dict, List, Tuple

from unequal.errors import InputError, install_hint
from unequal.system.files import replacing


def text_table(header: List[str], rows: List[List[str]]) -> str:
    """Rows of strings in aligned columns, the first to the left, the others to the right."""
    lines = [header] + rows
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(
        [line[0].ljust(widths[0])] + [cell.rjust(width)
                                      for cell, width in zip(line[1:], widths[1:])]).rstrip()
        for line in lines)


def percent(value: float, digits: int = 2) -> str:
    """A rate as a percentage; ``-`` when it is not a number."""
    return "-" if math.isnan(value) else f"{100 * value:.{digits}f}"


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as JSON; NaN, which JSON lacks, becomes null."""
    with replacing(path) as file:
        json.dump(_without_nan(value), file, indent=2)
        file.write("\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def plot_lines(path: str, curves: Dict[str, Tuple[Any, Any]], *, xlabel: str, ylabel: str,
               log_x: bool = True) -> None:
    """Draw one line a curve.

    Parameters
    ----------
    path : str
        The ending (``.png``, ``.svg``, ``.pdf``) is the format.
    curves : dict
        Name -> (x, y), two arrays; with ``log_x`` points at x = 0 are left out.

    Raises
    ------
    InputError
        When matplotlib is missing or does not know the format.
    """
    figure, kind = _figure(path)
    axes = figure.add_subplot()
    for name, (x, y) in curves.items():
        shown = x > 0 if log_x else slice(None)
        axes.plot(x[shown], y[shown], drawstyle="steps-post", label=name)
    if log_x:
        axes.set_xscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.01))
    axes.grid(True, alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path, binary=True) as file:
        figure.savefig(file, format=kind)


def check_plot(path: str) -> None:
    """Raise the errors of :func:`plot_lines` early, before the work whose result it draws."""
    _figure(path)


def _figure(path: str) -> Tuple[Any, str]:
    """A new figure, and the format that ``path`` asks for."""
    figure = new_figure(path)
    kind = os.path.splitext(path)[1][1:].lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"{path}: no plot format; end the name in .png, .svg or .pdf.")
    return figure, kind


def _matplotlib(what: str) -> Any:
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError:
        raise InputError(f"{what}: plots need matplotlib; {install_hint('plots')}.") from None
    return matplotlib


def new_figure(what: str, size: Tuple[float, float] = (6.4, 4.8)) -> Any:
    """An empty matplotlib figure of ``size`` inches.

    Raises
    ------
    InputError
        When matplotlib is missing; the text names ``what``.
    """
    matplotlib = _matplotlib(what)
    # Not pyplot: it keeps global state and may want a display.
    figure = matplotlib.figure.Figure(figsize=size)
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def style(what: str, parameters: Dict[str, Any]) -> Any:
    """Context in which figures are made and saved with other matplotlib parameters.

    Raises as :func:`new_figure`.
    """
    return _matplotlib(what).rc_context(parameters)
