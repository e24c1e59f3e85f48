"""The published measurements of the benchmarks as numbers; ``python -m benchmarks`` writes them."""

import json
from pathlib import Path

import pandas as pd

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError

_SIDES = [(side, part) for side in ("ours", "peer") for part in ("median", "low", "high", "repeats")]


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

    Columns: ``row``, ``what``, ``against``, ``unit``; ``ours``, ``ours_low``, ``ours_high``, ``ours_repeats`` and so
    for ``peer``: median, least, greatest and number of measurements; ``ratio``, how many times faster or smaller
    ours is; ``at_least``, the target, NaN for none; ``reached``, None without a target.
    """
    found = []
    for row in rows().query("measured")["row"]:
        for line in _read(f"{row}.json")["lines"]:
            try:
                sides = {f"{side}_{part}".removesuffix("_median"): line[side][part] for side, part in _SIDES}
                kept = {name: line[name] for name in ("what", "against", "unit", "ratio", "at_least", "reached")}
            except (KeyError, TypeError) as error:
                raise InputError(f"{row}.json: a line has no {error}; make bench ROWS={row} writes it again") from error
            found.append({"row": row} | kept | sides)
    return pd.DataFrame(found).astype({"at_least": float}) if found else pd.DataFrame({"row": []})


def _read(name: str):
    path: Path = paths.published_folder() / "bench" / name
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}; make bench ROWS={path.stem} writes it again") from error
