"""Frames of numbers as Markdown tables: the one place where numbers and names become text.

A frame stays numeric until it is shown. Its column types say what is a number; names of classes, files and
annotators are text wherever they come from, and never markup.
"""

import base64
import numbers
from collections.abc import Callable, Collection, Mapping

import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.learn.metrics import METRICS

ARROWS = {1: " ↑", -1: " ↓", 0: ""}
MISSING = "–"


def heading(name: object) -> str:
    """Return the words of a column: a metric's own with the arrow to its better side, else the name."""
    if isinstance(name, str) and name in METRICS:
        return METRICS[name].words + ARROWS[METRICS[name].better]
    return text(str(name).replace("_", " "))


def text(value: object) -> str:
    """Return a value as literal text in Markdown: no character of it is markup, in tables and in sentences.

    ``a|b`` becomes ``a&#124;b``; what is white is one space.
    """
    plain = " ".join(str(value).split())
    return "".join(c if c.isalnum() or c in " ,.-+=:;/%()±" else f"&#{ord(c)};" for c in plain)


def number(value: object, digits: int = 4, *, signed: bool = False) -> str:
    """Return a number with a fixed number of digits, an integer with thousands, a missing one as a dash."""
    if value is None or pd.isna(value):
        return MISSING
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    sign = "+" if signed else ""
    if isinstance(value, numbers.Integral):
        return f"{int(value):{sign},}"
    return f"{float(value):{sign}z.{digits}f}"  # z: no minus before a zero


def mean_std(mean: float, std: float, digits: int = 4) -> str:
    """Return ``mean ± standard deviation``; a single run has none."""
    return number(mean, digits) + ("" if pd.isna(std) else f" ± {number(std, digits)}")


def interval(low: float, high: float, digits: int = 4) -> str:
    """Return ``[low, high]`` with signs; a single split has none."""
    missing = pd.isna(low) or pd.isna(high)
    return MISSING if missing else f"[{number(low, digits, signed=True)}, {number(high, digits, signed=True)}]"


def markdown(
    frame: pd.DataFrame,
    *,
    name: str = "table",
    digits: int | Mapping[object, int] = 4,
    signed: Collection = (),
    bold: Collection[tuple] = (),
    links: Mapping[object, Callable[[object], str]] | None = None,
) -> str:
    """Return a frame as a Markdown table with a link to its numbers as CSV.

    The index becomes columns where it has a name. Columns of two levels whose second is ``mean`` and ``std``
    become one, ``mean ± std``; columns ``low`` and ``high`` become one, the 95 % interval. Numbers stand to the
    right, text to the left. A column ``metric`` holds names of metrics. A frame without columns is a dash.

    Parameters
    ----------
    frame : pandas.DataFrame
    name : str
        Of the CSV file, which holds the numbers as they are in the frame.
    digits : int, or mapping of column to int
        After the point, of every number that is not an integer; 4 for columns that a mapping leaves out.
    signed : collection
        Columns whose numbers have a sign, such as differences.
    bold : collection of (index label, column)
        Cells that are bold; the column is named as in the frame, without ``mean``. A missing number never is.
    links : mapping of column to function
        Columns whose values become Markdown of this package's making, such as links to runs.

    Raises
    ------
    InputError
        If two columns have the same name.
    """
    flat = frame.reset_index(drop=all(level is None for level in frame.index.names))
    if (twice := flat.columns[flat.columns.duplicated()]).size:
        raise InputError(f"table '{name}' has the column '{twice[0]}' twice, expected a name for each")
    if flat.columns.empty:
        return MISSING
    links, bold, columns = links or {}, set(bold), []
    for column in flat.columns:
        base, part = _parts(column, flat)
        if part in ("std", "high"):
            continue  # beside its mean, its low
        each = digits.get(base, 4) if isinstance(digits, Mapping) else digits
        cells, numeric = _cells(flat, column, part, each, base in signed, links.get(base))
        marked = [
            f"**{cell}**" if (label, base) in bold and cell != MISSING else cell
            for label, cell in zip(frame.index, cells, strict=True)
        ]
        words = ", ".join(map(heading, base)) if isinstance(base, tuple) else heading(base)
        columns.append(["95 % interval" if part == "low" else words, "---:" if numeric else ":---", *marked])
    lines = ["| " + " | ".join(line) + " |" for line in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n\n" + _csv(flat, name)


def _parts(column: object, flat: pd.DataFrame) -> tuple[object, str]:
    """Return what a column is of, and which part of a pair it is: ``mean`` or ``std``, ``low`` or ``high``, or none."""
    path = tuple(level for level in column if level != "") if isinstance(column, tuple) else (column,)

    def has(part: str) -> bool:
        return (*path[:-1], part) in flat.columns if isinstance(column, tuple) else part in flat.columns

    if path[-1:] in (("mean",), ("std",)) and len(path) > 1 and has("mean") and has("std"):
        path, part = path[:-1], path[-1]
    elif path[-1:] in (("low",), ("high",)) and has("low") and has("high"):
        part = path[-1]
    else:
        part = ""
    return (path[0] if len(path) == 1 else path), part


def _cells(
    flat: pd.DataFrame, column: object, part: str, digits: int, signed: bool, link: Callable | None
) -> tuple[list[str], bool]:
    """Return the texts of a column, or of a pair of columns, and whether they are numbers."""
    values = flat[column]
    if part:
        other, both = {"mean": ("std", mean_std), "low": ("high", interval)}[part]
        others = flat[(*column[:-1], other) if isinstance(column, tuple) else other]
        return [both(*pair, digits) for pair in zip(values, others, strict=True)], True
    known = values.dropna()
    if link is not None:
        return [MISSING if pd.isna(value) else link(value) for value in values], False
    if len(known) and all(isinstance(value, numbers.Real) or pd.api.types.is_bool(value) for value in known):
        return [number(value, digits, signed=signed) for value in values], True
    words = heading if column == "metric" or column == ("metric", "") else text
    missing = values.isna()
    return [MISSING if gone else words(value) for value, gone in zip(values, missing, strict=True)], False


def _csv(flat: pd.DataFrame, name: str) -> str:
    plain = flat.set_axis(
        [" ".join(str(level) for level in c if level != "") if isinstance(c, tuple) else c for c in flat.columns],
        axis=1,
    )
    address = base64.b64encode(plain.to_csv(index=False).encode()).decode()
    return (
        f'<a class="csv" download="{name}.csv" href="data:text/csv;base64,{address}" aria-label="this table as CSV">'
        "CSV</a>"
    )
