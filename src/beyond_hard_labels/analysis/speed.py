"""The published measurements of the benchmarks as numbers; ``python -m benchmarks`` writes them."""

import json

import pandas as pd

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError

_LINE = ["what", "against", "unit", "ratio", "at_least", "reached"]


def rows() -> pd.DataFrame:
    """Return one row a row of the benchmarks, in the order of the page.

    Columns: ``row``, ``about`` (what it measures), ``measured``, ``equal`` (what was checked to be the same on all
    sides), ``note``, ``profile`` (seconds of the parts of ours by name), ``machine`` (by name), ``taken`` (a date).
    """
    found = [{"row": row, "about": about} | _read(f"{row}.json") for row, about in _read("rows.json")]
    table = pd.DataFrame(found, columns=["row", "about", "lines", "equal", "note", "profile", "machine", "taken"])
    return table.assign(measured=table["lines"].notna()).drop(columns="lines")


def lines() -> pd.DataFrame:
    """Return one row a comparison.

    Columns: ``row``, ``what``, ``against``, ``unit``; ``ours`` and ``peer``, the medians; ``ratio``, how many times
    faster or smaller ours is; ``at_least``, the target, NaN for none; ``reached``, None without a target.
    """
    found = []
    for row in rows().query("measured")["row"]:
        for line in _read(f"{row}.json")["lines"]:
            try:
                sides = {side: line[side]["median"] for side in ("ours", "peer")}
                found.append({"row": row} | {name: line[name] for name in _LINE} | sides)
            except (KeyError, TypeError) as error:
                raise InputError(f"{row}.json: a line has no {error}; make bench ROWS={row} writes it again") from error
    return pd.DataFrame(found, columns=["row", *_LINE, "ours", "peer"]).astype({"at_least": float})


def _read(name: str):
    path = paths.published_folder() / "bench" / name
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}; make bench ROWS={path.stem} writes it again") from error
