"""The pages that are not notebooks: ``book/*.md`` from templates, and one page a run.

Pages are Jinja2 templates, and a name that there is not is an error with file and line. They take numbers and claims
from the records that notebooks leave in their outputs (`book.notebook`), each with a link to the runs behind it:

    badge, profile, command, splits           the book's study
    number("04_metrics", NAME)                a number, as the chapter prints it
    claim("04_metrics", NAME)                 sentence and verdict, as a quotation
    shown("04_metrics", NAME)                 a table that the chapter shows
    tables.NAME                               parameters, machine, versions or notebooks
    run_table(RUNS, NAME)                     one row a run
    found, runs                               the study's runs, and all that are shown
    lists, grids                              lists of runs, and grids, that outputs rest on
"""

import functools
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.base.parameters import options
from beyond_hard_labels.book import about, notebook, tables
from beyond_hard_labels.learn.metrics import METRICS
from beyond_hard_labels.runs import fresh, grids, store
from beyond_hard_labels.runs.spec import RunSpec
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.study import Study, in_words, nearest, valid_parameters

SHOWN_PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "pandas", "scipy", "scikit-learn", "openTSNE", "seaborn", "matplotlib"),
    *("papermill", "jupyter-book", "sphinx", "myst-nb"),
)
TEMPLATES = Path(__file__).parent / "templates"
RECORD = notebook.RECORD  # also the key of an executed notebook's metadata


class Output(NamedTuple):
    """What a cell of an executed notebook shows from runs, see `book.notebook` for the record."""

    chapter: str
    cell: int
    markdown: str
    record: dict[str, Any]


def outputs(chapter: str, executed: dict) -> Iterator[Output]:
    """Yield what an executed notebook shows from runs, in order."""
    for number, cell in numbered(executed):
        for output in cell.get("outputs", []):
            if record := output.get("metadata", {}).get(RECORD):
                yield Output(chapter, number, "".join(output["data"]["text/markdown"]), record)


def numbered(executed: dict) -> Iterator[tuple[int, dict]]:
    """Yield the cells with their numbers in the source, which lacks the parameters and errors that papermill adds."""
    number = 0
    for cell in executed["cells"]:
        number += not {"injected-parameters", "papermill-error-cell-tag"} & set(cell["metadata"].get("tags", []))
        yield number, cell


def named(said: list[Output]) -> dict[tuple[str, str, str], str]:
    """Return numbers, claims and tables by chapter, kind and name, which is unique, as Markdown with its link."""
    found = {}
    for chapter, cell, markdown, record in said:
        runs = f"grid:{record['grid']}" if "grid" in record else record["runs"]
        linked = "[{}]" + f"(#{notebook.label(runs)})" if runs else "{}"
        new = {("number", name): linked.format(text) for name, text in record.get("numbers", {}).items()}
        if "claim" in record:
            verdict = linked.format(notebook.verdict(record, bool(record["runs"] or "grid" in record)))
            new["claim", record["claim"]] = f"> {record['sentence']} *({verdict})*"  # a quotation, as in the chapter
        if record.get("table", "table") != "table":
            new["shown", record["table"]] = markdown
        for (kind, name), text in new.items():
            if (chapter, kind, name) in found:
                raise InputError(f"{chapter}, cell {cell}: there is a {kind} '{name}' already")
            found[chapter, kind, name] = text
    return found


def _look_up(found: Mapping[tuple[str, str, str], str], kind: str, chapter: str, name: str) -> str:
    if (chapter, kind, name) not in found:
        known = [f"'{n}'" if c == chapter else f"'{n}' of {c}" for c, k, n in found if k == kind]
        raise InputError(f"{chapter} has no {kind} '{name}', expected one of {', '.join(known) or 'none'}")
    return found[chapter, kind, name]


def made(root: Path, study: Study, found: list[Run], executed: Mapping[str, dict]) -> dict[str, bytes]:
    """Return the pages of the book by their paths in it: the project's templates, filled in, and one a run.

    They are of a study and its runs, and of the executed notebooks by name.
    """
    said = [output for name, content in executed.items() for output in outputs(name, content)]
    lists, chapters = _lists(said, found), named(said)
    values, docs = asdict(study) | study.shared, {n: f.metadata["doc"] for n, f in valid_parameters().items()}
    frames = {
        "parameters": _frame(("parameter", "value", "meaning"), [(n, values[n], doc) for n, doc in docs.items()]),
        "machine": _frame(("what", "value"), store.machine(found[0].spec.device).items()),
        "versions": _frame(("package", "version"), fresh.versions(*SHOWN_PACKAGES).items()),
        "notebooks": _frame(
            ("notebook", "seconds"), ((n, c["metadata"][RECORD]["seconds"]) for n, c in executed.items())
        ),
    }
    of_grids = sorted({output.record["grid"] for output in said if "grid" in output.record})
    context = {kind: functools.partial(_look_up, chapters, kind) for kind in ("number", "claim", "shown")} | {
        **{"badge": about.line(study, found), "profile": study.profile, "command": study.command, "found": found},
        **{"lists": lists, "grids": {name: _grid(name, study) for name in of_grids}, "run_table": run_table},
        "splits": f"{study.splits} split{'s' if study.splits > 1 else ''}",
        "runs": {run.name: run for each in lists for run in each["runs"]},
        "tables": {name: tables.markdown(frame, name=name, digits=1) for name, frame in frames.items()},
    }
    templates = sorted((root / "book").glob("*.md"))
    pages = {f"book/{path.name}": render(path, f"book/{path.name}", context) for path in templates}
    for name, run in context["runs"].items():
        own = _of_run(run) | {"lists": [each for each in lists if name in each["names"]]}
        pages[f"runs/{name}.md"] = render(TEMPLATES / "run.md", "templates/run.md", own)
    return pages


def render(template: Path, where: str, context: Mapping[str, Any]) -> bytes:
    """Return a template filled in; raise `InputError` with its place and line if it asks for what there is not."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    try:
        return environment.from_string(template.read_text("utf-8")).render(context).encode()
    except (jinja2.TemplateError, InputError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = next((f.lineno for f in reversed(frames) if f.filename == "<template>"), getattr(error, "lineno", 0))
        raise InputError(f"{where}, line {at}: {error}") from error


def _lists(said: list[Output], found: list[Run]) -> list[dict[str, Any]]:
    """Return every list of runs that an output rests on, the study's first, with what names, finds and shows it."""
    known = {run.name: run for run in found}
    chapters, lists = {tuple(known): []}, []
    for output in said:
        if names := tuple(output.record["runs"]):
            chapters.setdefault(names, []).append(output.chapter)
    for names, shown_in in chapters.items():
        known |= {name: store.by_name(name) for name in names if name not in known}
        runs, studies = [known[name] for name in names], defaultdict(set)
        for run in runs:
            studies[replace(run.spec, labels="soft", split=0)].add(run.spec.split)
        commands = [in_words(*nearest(spec, splits=max(splits) + 1)) for spec, splits in studies.items()]
        each = {"names": names, "runs": runs, "label": notebook.label(names), "commands": commands}
        lists.append(each | {"chapters": list(dict.fromkeys(shown_in))})
    return lists


def run_table(runs: list[Run], name: str) -> str:
    """Return one row a run: what it is, its wall time and its two headline metrics."""
    headline = {metric: METRICS[metric] for metric in ("macro_accuracy", "kl")}
    rows = [
        {field: getattr(run.spec, field) for field in ("dataset", "labels", "split", "epochs")}
        | {"run": run.name, "seconds": float(run.manifest["seconds"]), **run.score(headline)}
        for run in runs
    ]
    return tables.markdown(pd.DataFrame(rows), name=name, digits={"seconds": 0}, links={"run": notebook.run_link})


def _grid(name: str, study: Study) -> str:
    """Return what the page on runs says of a grid: how many runs of each part are whose."""
    own, of_project = grids.to_train(name, study), grids.published(name)
    rows = []
    for part in dict.fromkeys([*of_project, *own]):
        row = {"part": part, "runs trained for this book": len(own.get(part, [])), "published runs": 0}
        if part in of_project:
            row["published runs"] = len(of_project[part].specs)
            row["changed since they were published"] = fresh.told(of_project[part].changes)
        rows.append(row)
    return tables.markdown(pd.DataFrame(rows), name=f"grid-{name}")


def _frame(columns: Iterable[str], rows: Iterable[tuple]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns))


def _of_run(run: Run) -> dict[str, Any]:
    """Return what the template of a run's page may name."""
    manifest, fields = run.manifest, options(RunSpec)
    spec = [(name, value, fields[name].metadata["doc"]) for name, value in asdict(run.spec).items() if value != ""]
    made_of = {f"fingerprint of {name}": value for name, value in (manifest["data"] | manifest["code"]).items()}
    counts = ("training_images", "tied_training_images", "training_images_short_of_votes", "seconds")
    made_of |= manifest["versions"] | manifest["machine"] | {name.replace("_", " "): manifest[name] for name in counts}
    frames = {
        "metrics": _frame(("metric", "value"), run.metrics.items()),
        "history": run.history,
        "spec": _frame(("parameter", "value", "meaning"), spec),
        "made": _frame(("what", "value"), made_of.items()),
        "files": _frame(
            ("file", "bytes", "SHA-256"),
            ((name, (run.folder / name).stat().st_size, manifest["files"][name]) for name in run.files),
        ),
    }
    shown = {name: tables.markdown(frame, name=f"{run.spec.key}-{name}") for name, frame in frames.items()}
    return {"run": run, "badge": about.line_of_run(run), "command": in_words(*nearest(run.spec)), "tables": shown}
