"""Files of votes to frames of text: a row a record, in the columns of the file or those that its format has.

A file is decoded (`_text`) and recognised by its header or its first bytes; `TABLES` and `JSON` state the formats.
"""

import csv
import gzip
import io
import json
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.base.errors import InputError


@dataclass(frozen=True)
class Options:
    """How a table is to be read, where its header does not say so or says it wrongly."""

    format: str | None = None
    form: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    annotator_column: str | None = None
    count_column: str | None = None
    classes: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    drop_label: tuple[str, ...] = ()
    repeats: str = "refuse"
    match: str | None = None
    encoding: str | None = None


AS_IT_IS = Options()


@dataclass
class Table:
    """Votes, and what was done on the way to them.

    `votes` has ``image``, ``label`` (categories in the order of the classes), ``annotator`` ("" if unknown) and
    ``weight``, and its line, or the number of its record, as index. `said` are pairs (what, found) for the user.
    """

    path: Path
    votes: pd.DataFrame = None
    format: str = ""
    form: str = "long"
    left: set[str] = field(default_factory=set)  # images of rows that are no votes
    said: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def say(self, what: str, found) -> None:
        """Add to what the user is told."""
        self.said.append((what, str(found)))

    def place(self, line) -> str:
        """Return the words for a place in the file."""
        return f"{'line' if self.format in TABLES else 'record'} {line}"

    def fault(self, line, what: str) -> None:
        """Add a fault with its place."""
        self.faults.append(f"{self.path.name}, {self.place(line)}: {what}")


def short(text, limit: int = 200) -> str:
    """Return at most `limit` characters of a text, all of them printable."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(text)[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "..."


def listed(names) -> str:
    """Return names as a list in a sentence, not too long."""
    return short(", ".join(map(str, names)))


# Files to frames of text


def _text(path: Path, encoding: str | None) -> str:
    """Return a file's text, decoded as its first bytes or the option say."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    kinds = {b"PK": "an Excel workbook, or a zip archive", b"\x93NUMPY": "a NumPy array, which names no image"}
    kinds |= {b"PAR1": "a Parquet file", b"\x89PNG": "an image", b"\xff\xd8\xff": "an image", b"%PDF": "a PDF file"}
    kinds |= {b"\xd0\xcf\x11\xe0": "an old Excel workbook", b"SQLite": "a database"}
    for start, kind in kinds.items():
        if content.startswith(start):
            raise InputError(f"{path} is {kind}; save it as a CSV file with a row a vote: image,label,annotator")
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode(encoding or ("utf-16" if utf16 else "utf-8-sig")).removeprefix("\ufeff")
    except (UnicodeError, LookupError) as error:
        line = content[: getattr(error, "start", 0)].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: it is no text in {encoding or 'UTF-8'}; name its encoding, "
            f"such as --encoding latin-1 or --encoding cp1252 ({short(error)})"
        ) from error
    if not text.strip():
        raise InputError(
            f"{path} is empty; expected a table of votes, such as one with the columns image,label,annotator"
        )
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{path}, line {line}: there is a NUL character; the file is damaged, or name its --encoding")
    return text


def cells_of(table: Table, options: Options) -> pd.DataFrame:
    """Return all records as a frame of text, in columns that are named as those of the file are."""
    path = table.path
    if path.is_dir():
        if (path / "annotations.json").is_file():
            table.path = path = path / "annotations.json"
        elif files := sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".xml")):
            parts = []
            for file in files:
                part = cells_of(one := Table(file), options)
                parts.append(part if "annotator" in part else part.assign(annotator=file.stem))
                table.format = one.format
            return pd.concat(parts, ignore_index=True).fillna("")
        else:
            raise InputError(f"{path} is a folder; expected a table of votes, or a folder in the format of DCIC")
    text = _text(path, options.encoding)
    if options.format in JSON or (options.format is None and text.lstrip()[:1] in ("[", "{", "<")):
        return _records(table, text, options)
    return _csv(table, text, options)


def _csv(table: Table, text: str, options: Options) -> pd.DataFrame:
    path, offset, separator = table.path, 1, None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := re.match(r"sep=(.)\n", text, re.IGNORECASE):
        separator, text, offset = found[1], text[found.end() :], 2
    head = next(line for line in text.split("\n") if line.strip())
    bare = re.sub('"[^"]*"', "", head)
    separator = separator or max(",;\t|", key=bare.count)
    try:
        cells = _parsed(text, separator)
    except (OSError, ValueError, csv.Error) as error:
        odd = next((n for n, line in enumerate(text.split("\n"), offset) if line.count('"') % 2), offset)
        said = str(error).strip()
        hint = f"line {odd}: a quotation mark is not closed" if "EOF inside string" in said else short(said)
        raise InputError(
            f"{path} cannot be read as a table with the separator {separator!r}: {hint}; "
            "double a quotation mark within a cell, and quote a cell that holds the separator"
        ) from error
    breaks = cells.apply(lambda column: column.str.count("\n")).sum(axis=1)  # within cells
    lines = cells.index + offset + breaks.cumsum() - breaks
    for row in np.flatnonzero(breaks):
        if any(part.count(separator) >= max(1, cells.shape[1] - 1) for part in "\n".join(cells.iloc[row]).split("\n")):
            raise InputError(
                f"{path}, line {lines[row]}: a quotation mark swallows {breaks[row]} line(s), "
                f"{short(list(cells.iloc[row]), 80)}; remove it, or double it"
            )
    cells = cells.apply(lambda column: column.str.strip()).set_index(lines + breaks)
    header = cells.iloc[0].tolist()
    names = {name.lower() for name in header}
    if len(header) > 1 and len(cells) > 1 and (cells.iloc[1:, 1:] == "").all(axis=None):
        raise InputError(
            f"{path}, line 1: {separator!r} separates the header, but no other line: {short(cells.iloc[1, 0], 80)}"
        )
    table.format = options.format or next(name for name, needs in TABLES.items() if needs <= names)
    if separator != ",":
        table.say("separator", repr(separator))
    return _unfolded(table, cells.iloc[1:].set_axis(header, axis=1))


def _unfolded(table: Table, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the records with the image and the label of formats that keep them within a cell, or in several."""
    boxes = [column for column in cells if column.lower().startswith("answer.")] if table.format == "mturk" else []
    ticks = cells[boxes].apply(lambda column: column.str.lower())
    if len(boxes) > 1 and ticks.isin(["true", "false", ""]).all(axis=None):
        names = np.array([column.rpartition(".")[2] for column in boxes])
        label = [_cell(one_of([*names[row]])) for row in (ticks == "true").to_numpy()]
        return cells.drop(columns=boxes).assign(**{"Answer.label": label})
    if table.format != "zooniverse":
        return cells
    found = []
    for line, subject, answers in zip(cells.index, cells["subject_data"], cells["annotations"], strict=True):
        try:
            [about] = json.loads(subject).values()
            values = [value for one in json.loads(answers) for value in _several(one.get("value"))]
            names = ("image", "filename", "file_name", "file", "name", "image_name")
            image = next((about[key] for key in about if key.lower().lstrip("#") in names), "")
            found.append((image, one_of([v.get("choice") if isinstance(v, dict) else v for v in values if v])))
        except (ValueError, AttributeError) as error:
            raise InputError(f"{table.path}, line {line}: it does not fit the format zooniverse: {error}") from error
    image, label = ([*map(_cell, column)] for column in zip(*found, strict=True))
    return cells.assign(image=image, label=label)


def _several(value) -> list:
    return value if isinstance(value, list) else [value]


def _parsed(text: str, separator: str) -> pd.DataFrame:
    kept = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False, "sep": separator}
    try:
        return pd.read_csv(io.StringIO(text), **kept).fillna("")
    except pd.errors.ParserError as error:
        if not (found := re.search(r"Expected (\d+) fields in line \d+, saw (\d+)", str(error))):
            raise
        cells = pd.read_csv(io.StringIO(text), **kept, names=range(int(found[2]))).fillna("")
        if (cells.iloc[:, int(found[1]) :] != "").any(axis=None):  # more than separators at the ends of lines
            raise
        return cells.iloc[:, : int(found[1])]


TABLES = {  # the columns, in lower case, by which a format is known; the last is any table
    "mturk": {"hitid", "workerid"},
    "toloka": {"assignment:worker_id"},
    "zooniverse": {"classification_id", "annotations", "subject_data"},
    "appen": {"_unit_id", "_worker_id"},
    "label-studio-csv": {"annotation_id", "annotator"},
    "cifar10h-raw": {"annotator_id", "is_attn_check"},
    "ferplus": {"usage", "nf"},
    "crowd-kit": {"task", "worker", "label"},
    "table": set(),
}


def _label_studio(tasks: list) -> list[dict]:
    rows = []
    for task in tasks:
        image = next(iter(task["data"].values())) if len(task["data"]) == 1 else task["data"]["image"]
        for one in task["annotations"]:
            who = one.get("completed_by", "")
            row = {part: one.get(part, "") for part in ("was_cancelled", "ground_truth")}
            row |= {"image": image, "annotator": who.get("email", who.get("id")) if isinstance(who, dict) else who}
            chosen = [c for r in one["result"] if r.get("type") == "choices" for c in r["value"]["choices"]]
            rows.append(row | {"label": one_of(chosen)})
    return rows


def _prodigy(tasks: list) -> list[dict]:
    return [
        {"image": t.get("path") or t["image"], "annotator": t.get("_annotator_id") or t.get("_session_id") or ""}
        | {"label": one_of(t.get("accept") or [t.get("label", "")]), "answer": t["answer"]}
        for t in tasks
    ]


def one_of(chosen: list):
    """Return the only choice of a record, nothing if there is none, and several as they are."""
    return chosen[0] if len(chosen) == 1 else {"choices": chosen} if chosen else ""


def _doccano(tasks: list) -> list[dict]:
    names = ("filename", "image", "text", "data")
    return [
        {"image": next(t[n] for n in names if n in t), "label": one_of(t["label"])}
        | ({"annotator": t["annotator"]} if "annotator" in t else {})
        for t in tasks
    ]


def _dcic(notes: list) -> list[dict]:
    name = [one["name"] if "INVALID" not in one["name"] else f"{number:04d}" for number, one in enumerate(notes)]
    return [
        {"image": vote["image_path"], "label": vote["class_label"], "annotator": who}
        for who, one in zip(name, notes, strict=True)
        for vote in one["annotations"]
    ]


def _answers(answers: dict) -> list[dict]:
    return [
        {"image": image, "annotator": who, "label": label}
        for image, cast in answers.items()
        for who, label in cast.items()
    ]


def _is(*keys: str) -> Callable[[object], bool]:
    return lambda found: isinstance(found, list) and isinstance(found[0], dict) and {*keys} <= {*found[0]}


JSON = {  # by which a document is known, and what reads it
    "dcic": (_is("annotations", "dataset_name"), _dcic),
    "label-studio": (_is("data", "annotations"), _label_studio),
    "prodigy": (_is("image", "answer"), _prodigy),
    "doccano": (lambda found: _is("id", "label")(found) and isinstance(found[0]["label"], list), _doccano),
    "json-min": (_is("image"), lambda found: found),
    "json-records": (_is(), lambda found: found),
    "peerannot": (lambda found: isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()), _answers),
    "cvat": (lambda found: False, None),
}


def _records(table: Table, text: str, options: Options) -> pd.DataFrame:
    """Return the records of a JSON, JSON lines or CVAT file."""
    path = table.path
    if text.lstrip().startswith("<"):
        table.format = "cvat"
        try:
            if "<!ENTITY" in text or (root := ET.fromstring(text)).tag != "annotations":
                raise ValueError("expected <annotations> of CVAT for images 1.1")
        except (ET.ParseError, ValueError) as error:
            raise InputError(f"{path} is no export of CVAT for images: {short(error)}") from error
        return _frame(
            [(i.get("name"), t.get("label")) for i in root.iter("image") for t in i.iter("tag")], "image label"
        )
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise InputError(f"{path} is neither JSON nor JSON lines: {short(error)}") from error
    found = [found] if isinstance(found, dict) and "answer" in found else found
    known = [name for name, (fits, _) in JSON.items() if found and fits(found)]
    if not (options.format or known):
        raise InputError(f"{path} is JSON of no known format, {short(found)}; expected one of {', '.join(JSON)}")
    table.format = options.format or known[0]
    try:
        rows = JSON[table.format][1](found)
    except (KeyError, TypeError, AttributeError, StopIteration, IndexError) as error:
        raise InputError(
            f"{path} does not fit the format {table.format}: {error!r:.200}; name another --format"
        ) from error
    return _frame(rows)


def _frame(rows: list, columns: str | None = None) -> pd.DataFrame:
    """Return records as text, numbered from 1; what is none is empty, lists and objects stay JSON."""
    frame = pd.DataFrame(rows, columns=columns and columns.split(), dtype=object)
    return frame.map(_cell).set_axis(frame.index + 1)


def _cell(value) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
