"""What the page on speed shows: the measurements of the benchmarks that the project publishes.

A row is a file ``results/bench/ROW.json``, as ``make bench`` writes it to ``build/bench``; a row without
one is open, and the page names the command that measures it.
"""

import json
from pathlib import Path

import pandas as pd

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import report

ROWS = {  # in the order of the page
    "epoch": "an epoch of the small network, augmentation on",
    "densenet": "steps of DenseNet121",
    "gpu": "an epoch of DenseNet121 on a GPU",
    "study": "six runs in two processes",
    "tsne": "a t-SNE map",
    "archive": "a published archive made into a set",
    "votes": "ten million votes made into labels",
    "drawing": "the synthetic images",
    "book": "the book once more",
    "start": "the start of the command",
    "memory": "memory of 1.5 million images",
}
_LINE = {"what", "against", "ours", "peer", "at_least", "unit", "ratio", "reached"}


def read(folder: Path | None = None) -> dict[str, dict]:
    """Return the published measurements by row, in the order of the page.

    Parameters
    ----------
    folder : Path, optional
        By default ``results/bench`` of the project.

    Raises
    ------
    InputError
        If a file is of no row, is not JSON, or lacks what a row has.
    """
    folder = folder or paths.published_folder() / "bench"
    found = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    return {name: found[name] for name in ROWS if name in found and "open" not in found[name]}


def _read(path: Path) -> dict:
    try:
        row = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}; make bench ROWS={path.stem} writes it again") from error
    whole = isinstance(row, dict) and row.get("row") == path.stem and path.stem in ROWS
    if whole and "open" in row:
        return row
    if not whole or not {"lines", "equal", "note", "profile", "machine", "taken"} <= set(row):
        raise InputError(
            f"{path} is no row of the benchmarks, expected one of {', '.join(ROWS)} as make bench writes it"
        )
    if not all(set(line) >= _LINE for line in row["lines"]):
        raise InputError(f"{path}: a line lacks some of {', '.join(sorted(_LINE))}")
    return row


def table(rows: dict[str, dict]) -> pd.DataFrame:
    """Return one line a comparison: both sides' medians, how many times faster ours is, and the target."""
    reached = {True: "reached", False: "**not reached**"}
    return pd.DataFrame(
        [
            {
                "row": f"`{name}`",
                "what": line["what"],
                "against": line["against"],
                "ours": _value(line, "ours"),
                "the other": _value(line, "peer"),
                "ratio": f"{line['ratio']:.2f}",
                "target": "none" if line["at_least"] is None else f"{line['at_least']:g}, {reached[line['reached']]}",
            }
            for name, row in rows.items()
            for line in row["lines"]
        ]
    )


def _value(line: dict, side: str) -> str:
    """Return a median with what it varied by, as wide as the numbers deserve."""
    found = {name: f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for name, x in line[side].items()}
    spread = f" ({found['low']} to {found['high']})" if line[side]["repeats"] > 1 else ""
    return f"{found['median']} {line['unit']}{spread}"


def unreached(rows: dict[str, dict]) -> str:
    """Say of every target that is not reached by how much, and where the time goes; or that there is none."""
    said = []
    for name, row in rows.items():
        for line in row["lines"]:
            if line["reached"] is False:
                parts = sorted(row["profile"].items(), key=lambda part: -part[1])
                where = ", ".join(f"`{part}` {seconds:.3g} s" for part, seconds in parts)
                where = f" Where the time of ours goes, a call with all that it calls: {where}." if where else ""
                said.append(
                    f"- `{name}`, {line['what']}, against {line['against']}: {line['ratio']:.2f} in place of "
                    f"{line['at_least']:g}.\n  {row['note']}{where}"
                )
    if not rows:
        return "Nothing has been measured yet."
    return "\n".join(said) or "Every target of the rows measured so far is reached."


def notes(rows: dict[str, dict]) -> str:
    """Say of every row what was checked to be equal on all sides, and what there is to know."""
    return "\n".join(
        f"- `{name}`, {ROWS[name]}.\n  Equal on all sides: {row['equal']}.\n  {row['note']}".rstrip()
        for name, row in rows.items()
    )


def missing(rows: dict[str, dict]) -> str:
    """Name the rows that are open, each with the command that measures it."""
    said = [f"- {ROWS[name]}: `make bench ROWS={name}`" for name in ROWS if name not in rows]
    if not said:
        return "Every row has been measured."
    return "These rows are open, each with the command that measures it:\n\n" + "\n".join(said)


def machines(rows: dict[str, dict]) -> str:
    """Return a table of the machines and versions that rows were measured with, one column each."""
    columns: dict[str, list[str]] = {}
    for name, row in rows.items():
        columns.setdefault(json.dumps(row["machine"] | {"measured on": row["taken"]}), []).append(f"`{name}`")
    if not columns:
        return ""
    frame = pd.DataFrame({", ".join(names): json.loads(machine) for machine, names in columns.items()})
    return report.markdown_table(frame.rename_axis("measured with").reset_index(), "machines")


def texts() -> dict[str, str]:
    """Return what a page may name of the published measurements, by the names of placeholders."""
    rows = read()
    return {
        "speed.table": report.markdown_table(table(rows), "speed") if rows else "No row has been measured yet.",
        "speed.unreached": unreached(rows),
        "speed.notes": notes(rows) or "There are none yet.",
        "speed.open": missing(rows),
        "speed.machines": machines(rows),
    }
