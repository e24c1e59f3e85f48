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


_PAIRS = {"mean": ("std", mean_std), "low": ("high", interval)}  # columns that are shown as one


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
    become one, ``mean ± std``; columns ``low`` and ``high`` become one, the 95 % interval. A column ``metric`` holds
    names of metrics. A frame without columns is a dash.

    Parameters
    ----------
    name : str
        Of the CSV file, which holds the numbers as they are in the frame.
    digits : int, or mapping of column to int
        After the point, of what is no integer; 4 for columns that a mapping leaves out.
    signed : collection
        Columns whose numbers have a sign, such as differences.
    bold : collection of (index label, column without ``mean``)
        Cells that are bold; a missing number never is.
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
    series = {tuple(part for part in c if part != "") if isinstance(c, tuple) else (c,): flat[c] for c in flat}
    pairs = {path: (*path[:-1], _PAIRS[path[-1]][0]) for path in series if path[-1] in _PAIRS and path != ("mean",)}
    pairs = {first: second for first, second in pairs.items() if second in series}
    links, columns = links or {}, []
    for path in [path for path in series if path not in pairs.values()]:
        base = path[:-1] if path in pairs and path[-1] == "mean" else path
        base = base[0] if len(base) == 1 else base
        each = digits.get(base, 4) if isinstance(digits, Mapping) else digits
        made = links.get(base, heading if base == "metric" else None)
        cells, numeric = _cells(series[path], each, base in signed, made)
        words = ", ".join(map(heading, base)) if isinstance(base, tuple) else heading(base)
        if path in pairs:
            words, shown = "95 % interval" if path[-1] == "low" else words, _PAIRS[path[-1]][1]
            cells = [shown(*both, each) for both in zip(series[path], series[pairs[path]], strict=True)]
        strong = [cell != MISSING and (label, base) in bold for label, cell in zip(frame.index, cells, strict=True)]
        marked = [f"**{cell}**" if is_strong else cell for cell, is_strong in zip(cells, strong, strict=True)]
        columns.append([words, "---:" if numeric else ":---", *marked])
    lines = ["| " + " | ".join(line) + " |" for line in zip(*columns, strict=True)]
    plain = flat.set_axis([path[0] if len(path) == 1 else " ".join(map(str, path)) for path in series], axis=1)
    address = base64.b64encode(plain.to_csv(index=False).encode()).decode()
    href = f'href="data:text/csv;base64,{address}" aria-label="this table as CSV"'
    return "\n".join(lines) + f'\n\n<a class="csv" download="{name}.csv" {href}>CSV</a>'


def _cells(values: pd.Series, digits: int, signed: bool, words: Callable | None) -> tuple[list[str], bool]:
    """Return the texts of a column, and whether they are numbers, also in a column of objects."""
    kinds = ("integer", "floating", "mixed-integer-float", "boolean")
    if words is None and pd.api.types.infer_dtype(values, skipna=True) in kinds:
        return [number(value, digits, signed=signed) for value in values], True
    gone = values.isna()
    return [MISSING if lost else (words or text)(value) for value, lost in zip(values, gone, strict=True)], False
