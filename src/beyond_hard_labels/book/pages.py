"""The pages that are not notebooks: ``book/*.md`` from templates, and one page a run.

Pages are Jinja2 templates, and a name that there is not is an error with file and line. They take numbers and claims
from the records that notebooks leave in their outputs (`book.notebook`), each with a link to the runs behind it:

    badge, profile, command, splits           the book's study
    chapters["04_metrics"].numbers.NAME       a number, as the chapter prints it
    chapters["04_metrics"].claims.NAME        a claim: .sentence, .verdict, .holds, .decided
    number("04_metrics", NAME)                the number with its link
    claim("04_metrics", NAME)                 sentence and verdict with their link, as a quotation
    shown("04_metrics", NAME)                 a table that the chapter shows
    table(NAME)                               runs, parameters, machine, versions, notebooks or cluster
    costs                                     of many runs: .seconds, .hours, .disk, .machine
    lists, grids                              of the page on runs
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from beyond_hard_labels.base import files, paths
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
            if record := output.get("metadata", {}).get(notebook.RECORD):
                yield Output(chapter, number, "".join(output["data"]["text/markdown"]), record)


def numbered(executed: dict) -> Iterator[tuple[int, dict]]:
    """Yield the cells with their numbers in the source, which lacks the parameters that papermill injects."""
    number = 0
    for cell in executed["cells"]:
        number += "injected-parameters" not in cell["metadata"].get("tags", [])
        yield number, cell


def chapters(said: list[Output]) -> dict[str, SimpleNamespace]:
    """Return the numbers, claims and tables of each chapter by name, each with the `link` to its runs.

    Raises
    ------
    InputError
        If a chapter has two of one name.
    """
    found = defaultdict(lambda: SimpleNamespace(numbers={}, claims={}, tables={}, links={}))
    for chapter, cell, markdown, record in said:
        runs = f"grid:{record['grid']}" if "grid" in record else record["runs"]
        named = [("numbers", name, text) for name, text in record.get("numbers", {}).items()]
        if "claim" in record:
            verdict = notebook.VERDICTS[record["holds"], record["decided"]]
            named.append(("claims", record["claim"], SimpleNamespace(**record, verdict=verdict)))
        if record.get("table", "table") != "table":
            named.append(("tables", record["table"], markdown))
        for kind, name, value in named:
            if name in getattr(found[chapter], kind):
                raise InputError(f"{chapter}, cell {cell}: there is '{name}' among its {kind} already")
            getattr(found[chapter], kind)[name] = value
            found[chapter].links[kind, name] = notebook.label(runs) if runs else ""
    return dict(found)


def made(
    root: Path, study: Study, found: list[Run], executed: Mapping[str, dict], seconds: Mapping[str, float]
) -> dict[str, bytes]:
    """Return the pages of the book by their paths in it, from the templates of a project and executed notebooks.

    Parameters
    ----------
    root : Path
        The project; its ``book/*.md`` are the templates.
    study : Study
    found : list of Run
        The runs of the study.
    executed : mapping of str to dict
        The executed notebooks by name.
    seconds : mapping of str to float
        What they took.
    """
    said = [output for name, content in executed.items() for output in outputs(name, content)]
    lists = _lists(said, found)
    runs = {run.name: run for each in lists for run in each.runs}
    of_grids = sorted({output.record["grid"] for output in said if "grid" in output.record})
    context = _context(study, found, chapters(said), seconds)
    context |= {"lists": lists, "runs": list(runs.values()), "run_table": run_table}
    context["grids"] = [_grid(name, study) for name in of_grids]
    pages = {
        f"book/{path.name}": render(path.read_text("utf-8"), f"book/{path.name}", context)
        for path in sorted((root / "book").glob("*.md"))
    }
    template = (TEMPLATES / "run.md").read_text("utf-8")
    for name, run in runs.items():
        own = [each for each in lists if name in each.names]
        pages[f"runs/{name}.md"] = render(template, "templates/run.md", _of_run(run) | {"lists": own})
    pictures = {f"runs/{name}.png": _curves(run) for name, run in runs.items()}
    return {name: text.encode() for name, text in pages.items()} | pictures


def render(template: str, where: str, context: Mapping[str, Any]) -> str:
    """Return a template filled in; raise `InputError` with its place and line if it asks for what there is not."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    try:
        return environment.from_string(template).render(context)
    except (jinja2.TemplateError, InputError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = next((f.lineno for f in reversed(frames) if f.filename == "<template>"), getattr(error, "lineno", 0))
        raise InputError(f"{where}, line {at}: {error}") from error


def _lists(said: list[Output], found: list[Run]) -> list[SimpleNamespace]:
    """Return every list of runs that an output rests on, the study's first, with what names, finds and shows it."""
    named = {notebook.label(found): SimpleNamespace(names=notebook.names_of(found), chapters=[])}
    for output in said:
        if names := output.record["runs"]:
            each = named.setdefault(notebook.label(names), SimpleNamespace(names=names, chapters=[]))
            each.chapters = list(dict.fromkeys([*each.chapters, output.chapter]))
    known = {run.name: run for run in found}
    for label, each in named.items():
        known |= {name: store.by_name(name) for name in each.names if name not in known}
        each.label, each.runs = label, [known[name] for name in each.names]
        each.commands = _commands(each.runs)
    return list(named.values())


def _commands(runs: list[Run]) -> list[str]:
    """Return the options that find some runs again, one line a study."""
    groups = defaultdict(set)
    for run in runs:
        groups[replace(run.spec, labels="soft", split=0)].add(run.spec.split)
    return [in_words(*nearest(spec, splits=max(splits) + 1)) for spec, splits in groups.items()]


def run_table(runs: list[Run], name: str) -> str:
    """Return one row a run: what it is, its wall time and its two headline metrics."""
    headline = {metric: METRICS[metric] for metric in ("macro_accuracy", "kl")}
    rows = [
        {field: getattr(run.spec, field) for field in ("dataset", "labels", "split", "epochs")}
        | {"run": run.name, "seconds": float(run.manifest["seconds"]), **run.score(headline)}
        for run in runs
    ]
    return tables.markdown(pd.DataFrame(rows), name=name, digits={"seconds": 0}, links={"run": notebook.run_link})


def _grid(name: str, study: Study) -> SimpleNamespace:
    """Return what the page on runs says of a grid: how many runs of each part are whose."""
    own, of_project = grids.to_train(name, study), grids.published(name)
    parts = [
        {
            "part": part,
            "runs trained for this book": len(own.get(part, [])),
            "published runs": len(of_project[part].specs) if part in of_project else 0,
            "changed since they were published": fresh.told(of_project[part].changes) if part in of_project else None,
        }
        for part in dict.fromkeys([*of_project, *own])
    ]
    table = tables.markdown(pd.DataFrame(parts), name=f"grid-{name}")
    return SimpleNamespace(name=name, label=f"grid-{name}", table=table)


def _context(study: Study, found: list[Run], said: dict, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what a page may name, see the head of this module."""

    def of(chapter: str, kind: str, name: str) -> tuple[Any, str]:
        if chapter not in said:
            raise InputError(f"there is no chapter '{chapter}' with numbers, expected one of {', '.join(said)}")
        if name not in (named := getattr(said[chapter], kind)):
            raise InputError(
                f"{chapter} has no '{name}' among its {kind}, expected one of {', '.join(named) or 'none'}"
            )
        return named[name], said[chapter].links[kind, name]

    def number(chapter: str, name: str) -> str:
        value, label = of(chapter, "numbers", name)
        return f"[{value}](#{label})" if label else value

    def claim(chapter: str, name: str) -> str:
        value, label = of(chapter, "claims", name)
        verdict = f"[{value.verdict}](#{label})" if label else value.verdict
        return f"> {value.sentence} *({verdict})*"  # a quotation, as in the chapter

    return {
        **{"badge": about.line(study, found), "profile": study.profile, "command": study.command},
        **{"number": number, "claim": claim, "table": _tables(study, found, seconds)},
        "splits": f"{study.splits} split{'s' if study.splits > 1 else ''}",
        "shown": lambda chapter, name: of(chapter, "tables", name)[0],
        "chapters": {
            chapter: {kind: SimpleNamespace(**getattr(each, kind)) for kind in ("numbers", "claims")}
            for chapter, each in said.items()
        },
        "costs": costs(found),
    }


def _tables(study: Study, found: list[Run], seconds: Mapping[str, float]) -> Callable[[str], str]:
    values = asdict(study) | study.shared
    parameters = [(name, values[name], field.metadata["doc"]) for name, field in valid_parameters().items()]
    frames = {
        "parameters": pd.DataFrame(parameters, columns=["parameter", "value", "meaning"]),
        "machine": _pairs(store.machine(found[0].spec.device)),
        "versions": _pairs(fresh.versions(*SHOWN_PACKAGES), "package", "version"),
        "notebooks": _pairs(seconds, "notebook", "seconds"),
        "cluster": costs(found).table,
    }

    def table(name: str) -> str:
        if name == "runs":
            return run_table(found, name)
        if name not in frames:
            raise InputError(f"there is no table '{name}', expected one of runs, {', '.join(frames)}")
        digits = {"seconds": 1, "hours": 2}
        return tables.markdown(frames[name], name=name, digits=digits, links={"parameter": _code, "value": _code})

    return table


def _pairs(content: Mapping, what: str = "what", value: str = "value") -> pd.DataFrame:
    return pd.DataFrame(list(content.items()), columns=[what, value])


def _code(value: object) -> str:
    """Return a value as code, or as text where it holds what would end the code or its cell."""
    plain = str(value)
    return f"`{plain}`" if plain and not set(plain) & set("`|\n") else tables.text(plain)


def costs(runs: list[Run], many: int = 1000, workers: tuple[int, ...] = (1, 2, 10, 100)) -> SimpleNamespace:
    """Return what many runs such as these cost, from the mean seconds and bytes of these."""
    seconds = sum(run.manifest["seconds"] for run in runs) / len(runs)
    size = sum((run.folder / name).stat().st_size for run in runs for name in run.files) / len(runs)
    machine, threads, label = runs[0].manifest["machine"], runs[0].spec.threads, notebook.label(runs)
    hours = [math.ceil(many / n) * seconds / 3600 for n in workers]
    return SimpleNamespace(
        seconds=f"[{seconds:.1f} s](#{label})",
        hours=f"[{many * seconds * threads / 3600:.1f}](#{label})",
        disk=f"[{many * size / 1e9:.1f} GB](#{label})",
        machine=f"{threads} thread{'s' if threads > 1 else ''} of {machine.get('gpu', machine['system'])}",
        table=pd.DataFrame({"workers": workers, "hours": hours}),
    )


def _of_run(run: Run) -> dict[str, Any]:
    """Return what the template of a run's page may name."""
    manifest, fields = run.manifest, options(RunSpec)
    spec = [(name, value, fields[name].metadata["doc"]) for name, value in asdict(run.spec).items() if value != ""]
    fingerprints = {f"fingerprint of {name}": value for name, value in (manifest["data"] | manifest["code"]).items()}
    counts = ("training_images", "tied_training_images", "training_images_short_of_votes", "seconds")
    counted = {name.replace("_", " "): manifest[name] for name in counts}
    files_of = [(name, (run.folder / name).stat().st_size, manifest["files"][name]) for name in run.files]
    frames = {
        "metrics": _pairs(run.metrics, "metric"),
        "history": run.history,
        "spec": pd.DataFrame(spec, columns=["parameter", "value", "meaning"]),
        "made": _pairs(fingerprints | manifest["versions"] | manifest["machine"] | counted),
        "files": pd.DataFrame(files_of, columns=["file", "bytes", "SHA-256"]),
    }

    def table(name: str) -> str:
        links = {} if name == "metrics" else dict.fromkeys(("parameter", "value", "file", "SHA-256"), _code)
        return tables.markdown(frames[name], name=f"{run.spec.key}-{name}", links=links)

    return {**{"run": run, "badge": about.line_of_run(run), "command": in_words(*nearest(run.spec)), "table": table}}


def _curves(run: Run) -> bytes:
    """Return the picture of a run's learning curves, drawn once: it takes longer than all the rest of the page."""
    made_of = [run.manifest["files"], run.spec.labels, fresh.code_fingerprints("book.plots", "learn.metrics")]
    made_of += [importlib.metadata.version(package) for package in ("matplotlib", "seaborn")]
    path = paths.build_folder() / "curves" / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}.png"
    with contextlib.suppress(FileNotFoundError, files.Damaged):  # a picture is drawn again in no time
        return files.read_sealed(path)
    import matplotlib.pyplot as plt

    from beyond_hard_labels.book import plots

    plots.use_style()
    figure, drawn = plots.training_curves([run]), io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    files.write_sealed(path, drawn.getvalue())
    return drawn.getvalue()
