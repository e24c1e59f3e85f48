"""Pages that say where numbers come from: one a run, one a list of runs, written from the store."""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from beyond_hard_labels.base import files
from beyond_hard_labels.base.parameters import options
from beyond_hard_labels.base.paths import build_folder
from beyond_hard_labels.book import report
from beyond_hard_labels.data.sets import SYNTHETIC
from beyond_hard_labels.runs.fresh import code_fingerprint
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study

_LIST = """({label})=
# {title} `{command}`

{{{{ badge }}}}

{{{{ published }}}}

Every number that links here was computed from the predictions of these runs.
A run's own page has its specification, learning curve, versions and files.

## Runs

{{{{ table.runs }}}}

They are found again, or trained where they are missing, by

```
bhl study {command}
```

## Metrics on test images

The last rows are mean ± standard deviation over the splits, which is what the chapters print.

{{{{ table.scores }}}}

## Soft minus hard

{{{{ table.differences }}}}
"""

_MAPS = """
## Maps

```{{figure}} {label}.png
:alt: Four scatter plots, a row an arm; each point is an image, with the colour of its hue (left) or its shape (right).

t-SNE maps that came with the runs of split 0, hard labels above and soft labels below; coloured by the images' own hue
(left) and by their shape position (right).
```
"""

_RUN = """(run-{name})=
# {title} `{key}`

{badge}

A model trained on {labels} labels of split {split}; it is one of {{ref}}`these runs <{label}>`.

## Metrics on test images

{{{{ table.metrics }}}}

## Learning

```{{figure}} {name}.png
:alt: Two panels by epoch, macro accuracy and KL to the soft truth on the validation images of this run.

Macro accuracy and KL on the validation images of run `{key}` by epoch.
```

<details><summary>The same as a table</summary>

{{{{ table.history }}}}

</details>

## Again

The first command finds the run, or trains it where it is missing; the second trains it once more and compares.

```
bhl run --dataset {dataset} --labels {labels} --split {split} {command}
bhl compare {key}
```

## Specification

{{{{ table.spec }}}}

## Data, code, versions and machine

{{{{ table.made }}}}

## Files

{{{{ table.files }}}}
"""


def page_texts(study: Study, runs: list[Run]) -> dict[str, str | Callable[[], str]]:
    """Return all that a page may name: what a notebook may, the explorer, and what many runs cost."""
    from beyond_hard_labels.book import maps

    more = {"explorer": lambda: maps.explorer(runs, study.command)}
    return report.texts(study, runs) | more | costs(runs)


def costs(runs: list[Run], many: int = 1000, workers: tuple[int, ...] = (1, 2, 10, 100)) -> dict[str, str]:
    """Return what many runs such as these cost, from the mean seconds and bytes of these."""
    seconds = sum(run.manifest["seconds"] for run in runs) / len(runs)
    size = sum((run.folder / name).stat().st_size for run in runs for name in run.files) / len(runs)
    table = [(f"{n:,}", f"{math.ceil(many / n) * seconds / 3600:.2f}") for n in workers]
    linked = {"seconds": f"{seconds:.1f} s", "hours": f"{many * seconds * runs[0].spec.threads / 3600:.1f}"}
    linked["disk"] = f"{many * size / 1e9:.1f} GB"
    machine, threads = runs[0].manifest["machine"], runs[0].spec.threads
    return {
        **{f"cluster.{name}": f"[{text}](#{report.label(runs)})" for name, text in linked.items()},
        "cluster.machine": f"{threads} thread{'s' if threads > 1 else ''} of {machine.get('gpu', machine['system'])}",
        "table.cluster": report.markdown_table(pd.DataFrame(table, columns=["workers", "hours"]), "cluster"),
    }


def texts(run: Run) -> dict[str, Callable[[], str]]:
    """Return the tables of a run's page, by the names of their placeholders."""
    manifest, fields = run.manifest, options(RunSpec)
    spec = [
        (f"`{name}`", f"`{value}`", fields[name].metadata["doc"])
        for name, value in asdict(run.spec).items()
        if value != ""
    ]
    made = [
        *((f"fingerprint of {name}", f"`{value}`") for name, value in (manifest["data"] | manifest["code"]).items()),
        *manifest["versions"].items(),
        *manifest["machine"].items(),
        ("training images", str(manifest["training_images"])),
        ("tied training images", str(manifest["tied_training_images"])),
        ("training images with fewer votes than asked for", str(manifest["training_images_short_of_votes"])),
        ("test images", str(len(run.index))),
        ("seconds", str(manifest["seconds"])),
    ]
    tables = {
        "metrics": lambda: pd.DataFrame(
            [(report.HEADINGS[name], f"{value:.4f}") for name, value in run.metrics.items()],
            columns=["metric", "value"],
        ),
        "history": lambda: run.history.round(4).astype({"epoch": str}),
        "spec": lambda: pd.DataFrame(spec, columns=["parameter", "value", "meaning"]),
        "made": lambda: pd.DataFrame(made, columns=["what", "value"]),
        "files": lambda: pd.DataFrame(
            [(f"`{n}`", f"{(run.folder / n).stat().st_size:,}", f"`{manifest['files'][n]}`") for n in run.files],
            columns=["file", "bytes", "SHA-256"],
        ),
    }
    return {
        f"table.{name}": lambda name=name, make=make: report.markdown_table(make(), f"{run.spec.key}-{name}")
        for name, make in tables.items()
    }


def write(folder: Path, groups: list[tuple[Study, list[Run]]]) -> tuple[dict, dict[str, dict]]:
    """Write the pages of lists of runs, and of every run in them, into a folder ``runs`` of the book.

    Returns
    -------
    tuple
        The part of the table of contents, and the record of each page's numbers by the page's name.
    """
    folder.mkdir()
    records, chapters, written = {}, [], set()
    for study, runs in groups:
        label, sections = report.label(runs), []
        page = _LIST.format(title=_title("Runs of", runs[0]), label=label, command=study.command)
        if maps := _maps(runs):
            page += _MAPS.format(label=label)
            (folder / f"{label}.png").write_bytes(maps)
        text, printed = report.fill(page, report.texts(study, runs), f"runs/{label}")
        (folder / f"{label}.md").write_text(text, "utf-8")
        records[f"runs/{label}.md"] = report.record(study, runs, printed)
        for run in runs:
            key, name = run.spec.key, run.name
            if name in written:
                continue
            written.add(name)
            sections.append({"file": f"runs/{name}"})
            page = _RUN.format(
                badge=report.badge(study, [run]), label=label, command=study.command, key=key, name=name, **_named(run)
            )
            text, printed = report.fill(page, texts(run), f"runs/{name}")
            (folder / f"{name}.md").write_text(text, "utf-8")
            records[f"runs/{name}.md"] = {"run": name, "printed": printed}
            (folder / f"{name}.png").write_bytes(_curves(run))
        chapters.append({"file": f"runs/{label}", "sections": sections} if sections else {"file": f"runs/{label}"})
    return {"caption": "Runs", "chapters": chapters}, records


def _maps(runs: list[Run]) -> bytes | None:
    """Return the picture of the maps that published runs on the synthetic set came with; None of others."""
    planes = {run.spec.labels: run.published_map()[0] for run in runs if run.published_map()}
    if runs[0].spec.dataset != SYNTHETIC or not planes:
        return None
    from beyond_hard_labels.book import plots
    from beyond_hard_labels.data import shapes

    table = shapes.draw_parameters(runs[0].spec.n_images, runs[0].spec.data_seed).iloc[runs[0].index]
    return _png(lambda: plots.maps(planes, table["hue"].to_numpy(), table["shape"].to_numpy()))


def _png(draw: Callable) -> bytes:
    import matplotlib.pyplot as plt

    from beyond_hard_labels.book import plots

    plots.use_style()
    figure, drawn = draw(), io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    return drawn.getvalue()


def _curves(run: Run) -> bytes:
    """Return the picture of a run's learning curves, drawn once: it takes longer than all the rest of the page."""
    made_of = [
        run.manifest["files"]["history.csv"],
        run.spec.labels,
        code_fingerprint("book.plots"),
        importlib.metadata.version("matplotlib"),
        importlib.metadata.version("seaborn"),
    ]
    path = build_folder() / "curves" / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}.png"
    with contextlib.suppress(FileNotFoundError, files.Damaged):  # a picture is drawn again in no time
        return files.read_sealed(path)
    from beyond_hard_labels.book import plots

    drawn = _png(lambda: plots.training_curves([run]))
    files.write_sealed(path, drawn)
    return drawn


def _title(text: str, run: Run) -> str:
    return f"Published {text[0].lower()}{text[1:]}" if run.published else text


def _named(run: Run) -> dict[str, str]:
    return {"title": _title("Run", run)} | {name: getattr(run.spec, name) for name in ("labels", "split", "dataset")}
