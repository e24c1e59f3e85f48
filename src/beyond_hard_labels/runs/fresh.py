"""What a result was made of, and what has changed since: the one place that decides what is stale.

A result records the code, the data and the versions that it was made of, before it is made (`provenance`). `changes`
holds such a record against this moment; runs, checkpoints, maps and notebooks all ask it, and decide by the kind of a
change. `told` makes words of changes, for people only.

The code of a run is, by rule, what `runs.execute` and `runs.inputs` import from the rooms ``data`` and ``learn``, and
these two. Comments and docstrings do not count.
"""

import ast
import functools
import hashlib
import importlib.metadata
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from beyond_hard_labels.base import reads
from beyond_hard_labels.data import sets
from beyond_hard_labels.runs.spec import RunSpec

PACKAGE = Path(__file__).parents[1]
_TRAINING = ("runs.execute", "runs.inputs")


class Change(NamedTuple):
    """Something that is another now than when a result was made."""

    kind: str  # code, data or version; away: data that are not here to be compared; record: it cannot be read as one
    name: str  # of the module, the data or the package
    before: str | None = None  # fingerprint or version; None where there was none
    after: str | None = None


def told(found: Iterable[Change]) -> str:
    """Return changes in words, such as ``learn.augment changed; torch 2.13.0 → 2.14.1``; nothing for none."""
    return "; ".join(
        {
            "version": f"{name} {before or 'not recorded'} → {after or 'not needed'}",
            "away": f"{name} is not here to be compared",
            "record": name,
        }.get(kind, f"{name} {'changed' if before and after else 'is new' if after else 'is no longer part of it'}")
        for kind, name, before, after in found
    )


def changes(made: dict[str, dict], here: dict[str, dict]) -> list[Change]:
    """Return what has changed since something was made; nothing if it is fresh.

    `made` and `here` say what it was made of and what is here now, by part (``data``, ``code``, ``versions``) and then
    by name, as of `provenance`. Parts that only `made` has do not count.
    """
    found = []
    for part, now in here.items():
        before, kind = made.get(part), {"versions": "version"}.get(part, part)
        if not isinstance(before, dict):
            found.append(Change("record", f"its record of {part} is of another form"))
            continue
        for name in [*now, *(before.keys() - now.keys())]:
            old, new = before.get(name), now.get(name)
            if name in now and new is None:
                found.append(Change("away", name, old))
            elif old != new:
                found.append(Change(kind, name, old, new))
    return found


def provenance(spec: RunSpec) -> dict[str, dict]:
    """Return what a local run must share with this moment to count: data, code and versions, by name.

    A generated set is made by its parameters, which the spec holds, and by code; the data of another set are its file,
    None where that is not here.
    """
    data = {} if spec.dataset == sets.SYNTHETIC else {"data file": reads.digest("set", spec.dataset)}
    code = code_fingerprints(*training_modules())
    return {"data": data, "code": code, "versions": versions("numpy", "torch", "timm")}


def can_train(spec: RunSpec) -> bool:
    """Return whether a run can be trained on this machine: its images are here, and the GPU if it needs one."""
    if spec.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return False
    return spec.dataset == sets.SYNTHETIC or sets.is_here(spec.dataset)


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages; none of them is imported."""
    return {name: importlib.metadata.version(name) for name in packages}


def training_modules() -> list[str]:
    """Return the modules that determine what a run comes to: see the rule above."""
    imported = modules_used("\n".join(map(_source, _TRAINING)), ("data.", "learn.", "base.rng"))
    return sorted({*_TRAINING, *imported})


def modules_used(source: str, of: tuple[str, ...] = ("",)) -> set[str]:
    """Return the modules of this package that code imports, and those that they import, such as ``data.votes``.

    Only modules whose names begin with one of `of` count, and are followed.
    """
    found, waiting = set(), [source]
    while waiting:
        new = {name for name in _imported(waiting.pop()) - found if name.startswith(of)}
        found |= new
        waiting += map(_source, new)
    return found


@functools.cache
def _imported(source: str) -> frozenset[str]:
    """Return the modules of this package that a piece of code imports itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
            room = node.module.partition(".")[2]
            names = [room, *(f"{room}.{alias.name}".lstrip(".") for alias in node.names)]
            found |= {name for name in names if name and _path(name).is_file()}
    return frozenset(found)


def _path(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


def _source(module: str) -> str:
    return _path(module).read_text("utf-8")


def code_fingerprints(*modules: str) -> dict[str, str]:
    """Return the fingerprint of the code of some modules of this package, by their names."""
    return {module: code_fingerprint(module) for module in sorted(modules)}


def code_fingerprint(module: str) -> str:
    """Return the hash of a module's code; its page part, script, style and facts, of the same name, count too."""
    digest = hashlib.sha256(code_without_comments(_source(module)).encode())
    for part in map(_path(module).with_suffix, (".css", ".html", ".js", ".yml")):
        digest.update(part.read_bytes() if part.is_file() else b"")
    return digest.hexdigest()[:16]


@functools.cache
def code_without_comments(source: str) -> str:
    """Return the source without comments, docstrings and blank lines, whatever the Python version.

    Blank lines and spaces at line ends inside other strings are kept, since they are what a page or a file shows.
    """
    lines = source.split("\n")
    text, opened = set(), []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, (row, column) = tokenize.tok_name[token.type], token.start
        if kind == "COMMENT":
            lines[row - 1] = lines[row - 1][:column]
        elif kind.endswith("STRING_START"):  # since Python 3.12 an f-string is many tokens
            opened.append(row)
        elif kind.endswith("STRING_END") or kind == "STRING":
            text |= set(range((opened.pop() if kind != "STRING" else row) - 1, token.end[0] - 1))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            for row in range(node.body[0].lineno - 1, node.body[0].end_lineno):
                lines[row] = ""
                text.discard(row)
    kept = [line if row in text else line.rstrip() for row, line in enumerate(lines)]
    return "\n".join(line for row, line in enumerate(kept) if line or row in text)
