"""Frames of numbers as Markdown tables: the one place where numbers and names become text.

A frame stays numeric until it is shown. Its column types say what is a number; names of classes, files and
annotators are text wherever they come from, and never markup.
"""

import base64
from collections.abc import Collection

import pandas as pd

from beyond_hard_labels.learn.metrics import METRICS

ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def heading(name: str) -> str:
    """Return the words of a column: a metric's own with the arrow to its better side, else the name."""
    if name in METRICS:
        return METRICS[name].words + ARROWS[METRICS[name].better]
    return text(str(name).replace("_", " "))


def text(value: object) -> str:
    """Return a value as literal text in Markdown: no character of it is markup, in tables and in sentences."""
    plain = " ".join(str(value).split())
    return "".join(c if c.isalnum() or c in " ,.-+=:;/%()±" else f"&#{ord(c)};" for c in plain)


def number(value: float, digits: int = 4, *, signed: bool = False) -> str:
    """Return a number with a fixed number of digits, an integer with thousands, a missing one as a dash."""
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, bool) or (hasattr(value, "dtype") and value.dtype == bool):
        return "yes" if value else "no"
    if float(value).is_integer() and not isinstance(value, float):
        return f"{int(value):,}"
    return f"{value:{'+' if signed else ''}.{digits}f}"


def mean_std(mean: float, std: float, digits: int = 4) -> str:
    """Return ``mean ± standard deviation``; a single run has none."""
    return number(mean, digits) + ("" if pd.isna(std) else f" ± {number(std, digits)}")


def interval(low: float, high: float, digits: int = 4) -> str:
    """Return ``[low, high]`` with signs; a single split has none."""
    return "–" if pd.isna(low) else f"[{number(low, digits, signed=True)}, {number(high, digits, signed=True)}]"


def markdown(
    frame: pd.DataFrame,
    *,
    name: str = "table",
    digits: int = 4,
    signed: Collection[str] = (),
    bold: Collection[tuple] = (),
    links: Collection[str] = (),
) -> str:
    """Return a frame as a Markdown table with a link to its numbers as CSV.

    The index becomes columns where it has a name. Columns of two levels whose second is ``mean`` and ``std``
    become one, ``mean ± std``; columns ``low`` and ``high`` become one, the 95 % interval. Numbers stand to the
    right, text to the left. A column ``metric`` holds names of metrics.

    Parameters
    ----------
    frame : pandas.DataFrame
    name : str
        Of the CSV file.
    digits : int
        After the point, of every number that is not an integer.
    signed : collection of str
        Columns whose numbers have a sign, such as differences.
    bold : collection of (index label, column)
        Cells that are bold; the column is named as in the frame, without ``mean``.
    links : collection of str
        Columns whose text is Markdown that this package made, such as links to runs.
    """
    bold = set(bold)
    flat = _flat(frame)
    columns, right = {}, []
    for column in flat.columns:
        if column in columns or (isinstance(column, tuple) and column[-1] in ("std", "high")) or column == "high":
            continue
        cells, numeric = _cells(flat, column, digits, column in signed, column in links)
        base = column[0] if isinstance(column, tuple) else column
        marked = [
            f"**{cell}**" if (label, base) in bold else cell for label, cell in zip(frame.index, cells, strict=True)
        ]
        columns["95 % interval" if base == "low" else heading(base)] = marked
        right.append(numeric)
    lines = [list(columns), ["---:" if numeric else ":---" for numeric in right], *zip(*columns.values(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + _csv(flat, name)


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index() if any(name is not None for name in frame.index.names) else frame.reset_index(drop=True)


def _cells(flat: pd.DataFrame, column, digits: int, signed: bool, link: bool) -> tuple[list[str], bool]:
    """Return the texts of a column, or of a pair of columns, and whether they are numbers."""
    values = flat[column]
    if isinstance(column, tuple) and column[-1] == "mean" and (*column[:-1], "std") in flat:
        pairs = zip(values, flat[(*column[:-1], "std")], strict=True)
        return [mean_std(*pair, digits) for pair in pairs], True
    if column == "low" and "high" in flat:
        return [interval(*pair, digits) for pair in zip(values, flat["high"], strict=True)], True
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return [number(value, digits, signed=signed) for value in values], True
    if column == "metric":
        return [heading(value) for value in values], False
    return ["–" if pd.isna(value) else str(value) if link else text(value) for value in values], False


def _csv(flat: pd.DataFrame, name: str) -> str:
    plain = flat.set_axis([" ".join(filter(None, c)) if isinstance(c, tuple) else c for c in flat.columns], axis=1)
    address = base64.b64encode(plain.to_csv(index=False).encode()).decode()
    return (
        f'<a class="csv" download="{name}.csv" href="data:text/csv;base64,{address}" aria-label="this table as CSV">'
        "CSV</a>"
    )
