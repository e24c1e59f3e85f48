"""The studies that the project publishes: which they are, how they get into ``results``, and the page that shows them.

A study is shown once all its runs are there; the others are named with the command that trains and
publishes them, so nobody takes what was not run for what was left out.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import report
from beyond_hard_labels.data import sets
from beyond_hard_labels.data.votes import LABEL_KINDS
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import fresh, grids, store
from beyond_hard_labels.runs.ensure import ensure
from beyond_hard_labels.runs.maps import map_of
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, plan, read_profile


class Entry(NamedTuple):
    """A study to publish.

    Attributes
    ----------
    title, command : str
    study : Study or None
        None if it is on a set that is neither here nor published.
    runs : list of Run
        Its published runs; empty unless all are there.
    """

    title: str
    command: str
    study: Study | None
    runs: list[Run]


def entries() -> list[Entry]:
    """Return all studies that are to be published, in the order of ``profiles/published.yml``."""
    found = []
    for title, asked in read_profile("published").items():
        profile, *changes = (f"{name}={value}" for name, value in asked.items())
        command = " ".join([f"--profile {profile.partition('=')[2]}", *(f"--set {pair}" for pair in changes)])
        known = asked.get("dataset", sets.SYNTHETIC)
        here = known in (sets.SYNTHETIC, *sets.names()) or store.published_specs(known)
        study = plan(**asked) if here else None
        of_project = [store.published(spec) for spec in study.specs()] if study else [None]
        found.append(Entry(title, command, study, [] if None in of_project else of_project))
    return found


def publish(study: Study) -> list[Run]:
    """Write all runs of a study into ``results``, those of split 0 with their maps; return them as read back.

    Raises
    ------
    InputError
        If a run is neither here nor can be trained here.
    """
    done = []
    for run in ensure(study):
        if run.published:
            raise InputError(f"run {run.spec.key} is not on this machine, but published already; nothing to publish")
        settings = {"perplexity": study.perplexity, "iterations": study.tsne_iterations}
        done.append(publish_run(run, map_of(study, run) if run.spec.split == 0 else None, settings))
    return done


def publish_run(run: Run, plane: np.ndarray | None, settings: dict) -> Run:
    """Write a run into the project's published ones, in place of an older one, and return it as read back.

    Parameters
    ----------
    run : Run
        A local one, with its truth.
    plane : np.ndarray or None
        Its t-SNE map (N, 2), where one is to come along, made with these `settings`.
    """
    with np.load(run.folder / "predictions.npz", allow_pickle=False) as file:
        arrays = dict(file)
    slim = {name: rows.astype(np.float16) for name, rows in arrays.items() if name.endswith("_logits")}
    folder = paths.published_folder() / run.spec.key
    files.sweep(folder)
    with files.writing(folder) as temporary:
        temporary.mkdir()
        (temporary / "spec.json").write_bytes((run.folder / "spec.json").read_bytes())
        run.history.to_csv(temporary / "history.csv", index=False)
        for kept in (arrays | slim, arrays):  # float16 where it is exact enough
            store.write_npz(temporary / "predictions.npz", **kept)
            scores = with_predictions_of(run, temporary).scores()
            if as_printed(scores) == as_printed(run.scores()):
                break
        if run.spec.dataset != sets.SYNTHETIC:
            ours = ("_index", "_logits")  # the rest is made of the votes
            store.write_npz(temporary / "predictions.npz", **{n: rows for n, rows in kept.items() if n.endswith(ours)})
        files.write_json(temporary / "scores.json", scores)
        if plane is not None:
            store.write_npz(temporary / store.MAP, plane=plane.astype(np.float32), settings=json.dumps(settings))
        checksums = {path.name: files.checksum(path) for path in sorted(temporary.iterdir())}
        files.write_json(temporary / "manifest.json", run.manifest | {"files": checksums}, sealed=True)
    return store.load(folder)


def with_predictions_of(run: Run, folder: Path) -> Run:
    """Return a run with the predictions, and the truth, that lie in another folder."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        index, truth, logits = (file[f"test_{part}"] for part in ("index", "truth", "logits"))
        return replace(run, folder=folder, index=index, truth=truth, predicted=metrics.softmax(logits))


def as_printed(scores) -> str:
    """Return the scores of a run with as many digits as pages print."""
    if isinstance(scores, dict):
        return ", ".join(f"{name} {as_printed(scores[name])}" for name in sorted(scores))
    if isinstance(scores, list):
        return " with KL ".join(map(as_printed, scores))  # a temperature
    return "none" if scores is None else f"{scores:.4f}"


def table(found: list[Entry]) -> pd.DataFrame:
    """Return one row a published study, below the paper's own row of its set: both arms, mean ± deviation."""
    rows, named = [], set()
    for entry in (entry for entry in found if entry.runs):
        spec, scores = entry.runs[0].spec, report.scores(entry.runs).groupby("labels")
        means, deviations = scores[["macro_accuracy", "kl"]].mean(), scores[["macro_accuracy", "kl"]].std()
        ours = {(arm, name): (means[name][arm], deviations[name][arm]) for arm in LABEL_KINDS for name in means}
        if spec.dataset in report.PAPER and spec.dataset not in named:
            rows.append(_row("paper, Table 1", "3", report.PAPER[spec.dataset]))
            named.add(spec.dataset)
        rows.append(_row(_link(entry), str(entry.study.splits), ours))
    return pd.DataFrame(rows)


def _row(source: str, splits: str, values: dict) -> dict[str, str]:
    names = {"macro_accuracy": "macro accuracy ↑", "kl": "KL ↓"}
    return {"source": source, "splits": splits} | {
        f"{arm}: {words}": report.plus_minus(*values[arm, name])
        for arm in ("hard", "soft")
        for name, words in names.items()
    }


def attributes(found: list[Entry]) -> pd.DataFrame:
    """Return one row a published study on the synthetic set: how often each arm has the colour right, and the shape.

    A class is a colour and a shape, see `shapes.CLASS_NAMES`; right is that of the class that leads the truth.
    """
    rows = []
    for entry in (entry for entry in found if entry.runs and entry.runs[0].spec.dataset == sets.SYNTHETIC):
        row = {"source": _link(entry)}
        for arm in LABEL_KINDS:
            own = [run for run in entry.runs if run.spec.labels == arm]
            leading = [(run.truth.argmax(axis=1), run.predicted.argmax(axis=1)) for run in own]
            for name, part in (("colour", lambda k: k // 2), ("shape", lambda k: k % 2)):
                right = pd.Series([(part(true) == part(predicted)).mean() for true, predicted in leading])
                row[f"{arm}: {name}"] = report.plus_minus(right.mean(), right.std())
        rows.append(row)
    return pd.DataFrame(rows)


def badges(found: list[Entry]) -> str:
    """Say of each published study in a line what its numbers come from, and what changed since."""
    from beyond_hard_labels.book.real_votes import PIXELS

    lines = []
    for entry in (entry for entry in found if entry.runs):
        pixels = PIXELS.get(entry.runs[0].manifest["data"].get("data file"))
        about = [report.badge(entry.study, entry.runs), *([f"pixels {pixels}"] if pixels else [])]
        lines.append(f"- **{entry.title}**: {' · '.join(about)}. {report.since(entry.runs)}")
    return "\n".join(lines) or "No study is published yet."


def at_full_size(found: list[Entry]) -> str:
    """Say what the published studies of the profile `paper` on the synthetic set came to, after the paper's table."""

    def numbers(values: dict) -> str:
        pairs = (f"{values[arm, 'macro_accuracy']:.3f} / {values[arm, 'kl']:.3f} ({arm})" for arm in LABEL_KINDS)
        return " and ".join(pairs)

    paper = report.PAPER[sets.SYNTHETIC]
    said = [f"the paper prints {numbers({name: mean for name, (mean, _) in paper.items()})}"]
    for entry in (entry for entry in found if entry.runs and entry.study.profile == "paper"):
        if entry.runs[0].spec.dataset == sets.SYNTHETIC:
            means = report.scores(entry.runs).groupby("labels")[["macro_accuracy", "kl"]].mean().stack().to_dict()
            near = sum(abs(means[name] - mean) <= 2 * deviation for name, (mean, deviation) in paper.items())
            said.append(f"{_link(entry)} gave {numbers(means)}, {near} of the four within two of its deviations")
    return "; ".join(said) + ("" if len(said) > 1 else "; no run at its size is published yet")


def _link(entry: Entry) -> str:
    return f"[{entry.title}](#{report.label(entry.runs)})"


def open_rows(found: list[Entry]) -> str:
    """Name the studies that are not published, each with the command that trains and publishes it."""
    rows = [(entry.title, f"`bhl study {entry.command} --publish`") for entry in found if not entry.runs]
    rows = pd.DataFrame(rows, columns=["not run yet", "command"])
    return "All of them were run." if rows.empty else report.markdown_table(rows, "open")


def texts() -> dict[str, Callable[[], str]]:
    """Return what a page may name of the published studies."""
    found = functools.cache(entries)  # read once for all of them
    return {
        "published.table": lambda: report.markdown_table(table(found()), "published"),
        "published.attributes": lambda: report.markdown_table(attributes(found()), "attributes"),
        "published.badges": lambda: badges(found()),
        "published.full_size": lambda: at_full_size(found()),
        "published.open": lambda: open_rows(found()),
        "published.grids": _of_grids,
    }


def _of_grids() -> str:
    """Say which parts of the grids are published, of how many runs, and what changed since."""
    rows = [
        (f"`{grid}`", name.replace("_", " "), str(len(part.specs)), fresh.told(part.changes) or "nothing")
        for grid in grids.GRIDS
        for name, part in grids.published(grid).items()
    ]
    return report.markdown_table(pd.DataFrame(rows, columns=["grid", "part", "runs", "changed since"]), "grids")
