"""Tables of votes as people have them: any supported file becomes one long frame, and says what was done to it.

What is not read is named, and what could be read in two ways is refused with the option that decides.
"""

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data.records import AS_IT_IS, JSON, TABLES, Options, Table, cells_of, listed

FORMS, REPEATS = ("long", "wide", "counts"), ("refuse", "last", "all")
_ROLES = {  # the names that a column of each kind has, in lower case, best first
    "image": "image image_path filename file_name file image_name image_filename image_url path img picture photo "
    "task item image_id cifar10_test_test_idx",
    "label": "label class choice category class_label chosen_category chosen_label answer vote annotation result",
    "annotator": "annotator annotator_id worker worker_id workerid _worker_id rater rater_id user user_name "
    "username user_id who coder labeler labeller expert completed_by _annotator_id participant email user_email "
    "annotator_name worker_name coder_id labeler_id reviewer reviewer_id",
    "count": "count counts n votes n_votes num_votes num weight freq frequency share proportion probability prob",
}
_PEOPLE = "ann annot annotator worker rater coder user judge reader labeler labeller expert person reviewer grader"
_PERSON = re.compile(rf"({_PEOPLE.replace(' ', '|')})([ _.-]?([0-9]+|[a-z])|[ _.-]\w+)")
_OTHER = re.compile(
    r"|#|index|idx|id|row|unnamed: ?\d+|width|height|(file_?)?size|area|channels|usage|split|fold|year|age|time.*"
)
_TOTAL = re.compile(r"total|sum|all|n|n_votes|votes|count|num_votes")
_OUT = {  # columns of which a row with such a value is no vote, in lower case
    "assignmentstatus": "rejected",
    "assignment:status": "rejected|skipped|expired|created|active",
    "reject": ".+",
    "golden:result": ".+",
    "_golden": "true|1",
    "_tainted": "true|1",
    "was_cancelled": "true|1",
    "ground_truth": "true|1",
    "is_attn_check": "1|true|1.0",
    "gold_standard": "true|1",
}
_DOUBT = re.compile(r"reject\w*|cancel\w*|skip\w*|ignore\w*|invalid|spam|flagged|deleted")
_CHECK = re.compile(
    r"(?:.*[_ .:-])?(gold\w*|is_?gold|attn|attention|check|test_question|is_test|ground_truth|quality_control|qc|"
    r"skip\w*|cancel\w*|reject\w*|ignored?|deleted?|removed?|excluded?|flagged|invalid|spam)"
)
_GOOD = re.compile(r"(?:.*[_ .:-])?(valid|approved?|accepted?|passed|usable|keep|kept|included?)")
_NO_CLASS = re.compile(r"skip|skipped|idk|(i )?(don'?t|do not) know|not sure|can'?t tell|no answer")
_UNSEEN = ("unknown", "nf")  # of FER+: an expression that cannot be told, and no face
_BLANK = re.compile(r"na|n/a|nan|null|none|-+|\?+")  # what stands for nothing in a table of a column an annotator


def read(path: Path, options: Options = AS_IT_IS) -> Table:
    """Return the votes of a file, or of a folder of a file an annotator, in the long form, with all faults.

    Raises
    ------
    InputError
        If it cannot be read at all, or in several ways, with the remedy.
    """
    table = Table(Path(path))
    if options.format not in (None, *TABLES, *JSON):
        raise InputError(f"the format is '{options.format}', expected one of {', '.join([*TABLES, *JSON])}")
    for name, value, known in (("form", options.form, (None, *FORMS)), ("repeats", options.repeats, REPEATS)):
        if value not in known:
            raise InputError(f"--{name} is '{value}', expected one of {', '.join(filter(None, known))}")
    cells = cells_of(table, options)
    cells = cells.loc[(cells != "").any(axis=1), (cells.columns != "") | (cells != "").any().to_numpy()]
    if len(set(cells.columns)) < cells.shape[1]:
        raise InputError(f"{path}, line 1: the columns are {listed(cells.columns)}; expected all of different names")
    table.say("format", table.format)
    table.say("rows read", len(cells))
    if not len(cells):
        raise InputError(f"{table.path} has no rows, only the columns {listed(cells.columns)}")
    roles, every = _roles(table, cells, options), cells
    cells, used = _filtered(table, cells, [*roles.values()], options)
    if "image" in roles:
        table.left = {*every[roles["image"]].unique()} - {*cells[roles["image"]].unique()}
    table.votes = _long(table, cells, roles, used, options)
    _check(table, options)
    return table


def _roles(table: Table, cells: pd.DataFrame, options: Options) -> dict[str, str]:
    """Return which column is read as image, label, annotator and count."""
    lower = {re.sub("[ -]", "_", column.lower()): column for column in cells}
    hints = {"mturk": ("input.", "answer."), "toloka": ("input:", "output:")}.get(table.format, ())
    roles = {}
    for role, given in zip(_ROLES, (options.image_column, options.label_column), strict=False):
        named = [lower[name] for name in _ROLES[role].split() if name in lower]
        if hints:
            named = [column for name, column in lower.items() if name.startswith(hints[role == "label"])]
        elif table.format == "appen" and role == "label":
            named = [lower[name] for name in lower if f"{name}_gold" in lower]
        roles[role] = _chosen(table, lower, given, role, named[:1] if not hints or role == "image" else named)
    others = {"annotator": options.annotator_column, "count": options.count_column}
    for role, given in others.items():
        names = [*_ROLES[role].split(), "assignment:worker_id"] if role == "annotator" else _ROLES[role].split()
        named = [lower[name] for name in names if name in lower and lower[name] not in roles.values()]
        roles[role] = _chosen(table, lower, given, role, named[:1])
    return {role: column for role, column in roles.items() if column is not None}


def _chosen(table: Table, lower: dict, given: str | None, role: str, named: list[str]) -> str | None:
    if given is not None:
        if (name := re.sub("[ -]", "_", given.lower())) not in lower:
            raise InputError(
                f"--{role}-column is '{given}', and the columns of {table.path} are {listed(lower.values())}"
            )
        return lower[name]
    if len(named) > 1:
        raise InputError(f"{table.path}: {listed(named)} may each be the {role}; choose one with --{role}-column")
    return named[0] if named else None


def _filtered(table: Table, cells: pd.DataFrame, read: list[str], options: Options) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows that are votes, as known columns and --where say, and the columns that said so."""
    lower, used, kept = {column.lower(): column for column in cells}, [], pd.Series(True, cells.index)
    wanted = {}
    for one in options.where:
        name, equals, value = one.partition("=")
        if not equals or name.lower() not in lower:
            raise InputError(f"--where is '{one}', expected COLUMN=VALUE with a column of {listed(cells.columns)}")
        wanted.setdefault(lower[name.lower()], set()).add(value)
    known = _OUT | ({"answer": "reject|ignore"} if table.format == "prodigy" else {})
    if table.format not in ("label-studio", "label-studio-csv"):
        known = {name: value for name, value in known.items() if name != "ground_truth"}
    for name, column in lower.items():
        if column in wanted:
            out = ~cells[column].isin(wanted[column])
        elif name in known:
            out = cells[column].str.lower().str.fullmatch(known[name]).astype(bool)
        else:
            values = cells[column].str.lower()
            flag = bool(_CHECK.fullmatch(name)) and values.isin(["1", "1.0", "true", "yes", "x", "y"]).any()
            flag |= bool(_GOOD.fullmatch(name)) and values.isin(["0", "0.0", "false", "no", "n"]).any()
            doubt = values[values.str.fullmatch(_DOUBT)].tolist() if values.nunique() <= 20 else []
            if column not in read and (flag or doubt):
                found = f"'{doubt[0]}'" if doubt else "rows that are marked"
                raise InputError(
                    f"{table.path}: the column '{column}' has {found}, and "
                    f"nothing says whether such rows are votes; say which count, --where '{column}=VALUE', once "
                    f"a value; it holds {listed(cells[column].unique()[:9])}"
                )
            continue
        used.append(column)
        kept &= ~out
        if out.any():
            table.say("rows left out", f"{out.sum()}: {column} is {listed(cells.loc[out, column].unique()[:5])}")
    if table.format == "ferplus" and read:  # whose table has rows without a name, and faces that nobody could tell
        counts = cells[[c for c in cells if c not in (*read, *used) and c.lower() not in ("usage", *_UNSEEN)]]
        out = kept & ((counts == "0").all(axis=1) | (cells[read[0]] == ""))
        kept &= ~out
        if out.any():
            table.say("rows left out", f"{out.sum()}: no image is named, or no vote is for an expression")
    return cells[kept], used


def _long(table: Table, cells: pd.DataFrame, roles: dict, used: list[str], options: Options) -> pd.DataFrame:
    """Return the votes in the long form, as text, whatever the form of the table; say what was read as what."""
    rest = [column for column in cells if column not in [*roles.values(), *used]]
    numeric = [c for c in rest if cells[c].str.fullmatch(r"[+-]?[0-9][0-9.,]*|").mean() >= 0.5]
    people = [c for c in rest if _PERSON.fullmatch(c.lower())]
    found = listed(cells.columns)
    if "image" not in roles:
        raise InputError(
            f"{table.path}, line 1: the columns are {found}; expected 'image', and 'label' with one row a vote, or "
            "one column of counts a class; a header is needed, and --image-column and --label-column name others"
        )
    form = options.form or (
        "long" if "label" in roles else "counts" if options.classes or "annotator" not in roles else ""
    )
    if form == "long" and not options.form and {*cells[roles["label"]].unique()} <= {*numeric} and len(cells):
        raise InputError(
            f"{table.path} has a label and counts of {listed(numeric)}; choose with --form long or --form counts"
        )
    if form == "" or (form == "long" and "label" not in roles):
        raise InputError(f"{table.path}: no column is the label, of {found}; name it with --label-column")
    if form == "long":
        said = {role: f"'{column}'" for role, column in roles.items()}
        votes = pd.DataFrame({role: cells[column] for role, column in roles.items() if role != "count"})
        votes["weight"] = _shares(table, cells[roles["count"]], votes["image"]) if "count" in roles else "1"
        unread = rest
    else:
        rest = [column for column in cells if column not in (roles["image"], *used)]
        columns, unread = _class_columns(table, cells, rest, people, options)
        text = bool(people) or not all(column in numeric or column in roles.values() for column in columns)
        shared = (
            not numeric and len(columns) > 1 and len(np.unique(cells[columns])) <= max(2, len(cells) * len(columns) / 3)
        )
        if not options.form and not options.classes and text and len(cells):
            form = "wide" if people or shared else ""
        if form == "" or not columns:
            raise InputError(
                f"{table.path}, line 1: the columns are {found}; expected 'image', and 'label' with one row a vote, or "
                "columns of whole numbers; say what they are with --form wide|counts or --label-column"
            )
        if form == "counts" and not (options.form or options.classes):
            _refuse_codes(table, cells[columns])
        melted = cells[columns].to_numpy(str).ravel()
        votes = cells[[roles["image"]]].set_axis(["image"], axis=1).loc[cells.index.repeat(len(columns))]
        name, value = ("annotator", "label") if form == "wide" else ("label", "weight")
        votes = votes.assign(**{name: np.tile(columns, len(cells)), value: melted})
        said = {"image": f"'{roles['image']}'", "annotators" if form == "wide" else "classes": listed(columns)}
        if form == "wide":
            votes = votes[votes["label"] != ""].assign(weight="1")
        else:
            votes["weight"] = _shares(table, votes["weight"], votes.index)
    table.say("read as", "; ".join(f"{role}: {found}" for role, found in said.items()))
    if unread:
        table.say("not read", listed(unread))
    table.form = form
    return votes if "annotator" in votes else votes.assign(annotator="")


def _class_columns(table, cells, rest: list[str], people: list[str], options: Options) -> tuple[list[str], list[str]]:
    """Return the columns of classes, or of people, and those that are neither."""
    if options.classes and options.form != "wide":
        if lacking := [name for name in options.classes if name not in rest]:
            raise InputError(
                f"{table.path}: --classes has {listed(lacking)}, and the columns are {listed(cells.columns)}"
            )
        columns = [*options.classes]
    elif len(people) > 1 and options.form != "counts":
        columns = people
    else:
        columns = [c for c in rest if not _OTHER.fullmatch(c.lower())]
        if table.format == "ferplus":
            columns = [c for c in columns if c.lower() not in _UNSEEN]
        numbers = cells[columns].apply(pd.to_numeric, errors="coerce")
        for column in columns if options.form != "wide" and len(cells) else ():
            others = numbers.drop(columns=column)
            if others.shape[1] > 1 and np.isclose(numbers[column], others.sum(axis=1)).all() and numbers[column].any():
                columns = [c for c in columns if c != column]
                table.say("a sum of the others", column)
                break
            with_it, without = (len({*frame.sum(axis=1)}) for frame in (numbers, others))
            if others.shape[1] > 1 and without == 1 < with_it and not options.form:
                what = f"is '{column}' a class? without it all images have as many votes"
                raise InputError(f"{table.path}: {what}; name the classes, --classes a,b, or --form counts")
        else:
            if total := [c for c in columns if _TOTAL.fullmatch(c.lower())] if options.form is None else []:
                what = f"is '{total[0]}' a class? name the classes"
                raise InputError(f"{table.path}: {what}, --classes a,b, or --form counts")
    return columns, [c for c in rest if c not in columns]


def _refuse_codes(table: Table, cells: pd.DataFrame) -> None:
    values = [frozenset(cells[column]) for column in cells]
    sums = cells.apply(pd.to_numeric, errors="coerce").sum(axis=1).round(6)
    same = len(cells) >= 5 and len({*values}) == 1 and 1 < len(values[0]) < 10
    stems = [found and found[1] for found in (re.fullmatch(r"([a-z]+[ _.-]?)[0-9]+", c.lower()) for c in cells)]
    numbered = None not in stems and len({*stems}) == 1
    if len(values) > 1 and (same or numbered) and sums.nunique() > 1:
        what = f"the same {len(values[0])} numbers stand in each of the columns" if same else "numbers stand in"
        raise InputError(
            f"{table.path}: {what} {listed(cells.columns)}; "
            "say whether they are codes, a column an annotator, --form wide, or counts, a column a class, --form counts"
        )


def _shares(table: Table, weight: pd.Series, image: pd.Series | pd.Index) -> pd.Series:
    """Return the counts; those of shares, which sum to 1 an image, as the votes of which they may be the shares."""
    numbers = pd.to_numeric(weight, errors="coerce")
    sums, numbers = numbers.groupby(image.to_numpy()).sum(min_count=1), numbers.to_numpy(float)
    if len(numbers) and (sums == 100).all():
        table.say("warning", "all images have 100 votes; if these are shares in percent, that is more than there were")
    whole = (numbers == numbers.round()).all()
    if whole or not ((sums - 1).abs() < 0.005).all() or (numbers < 0).any() or np.isnan(numbers).any():
        return weight
    fits = [n for n in range(2, 101) if np.abs(numbers * n - (numbers * n).round()).max() < 1e-6 * n]
    n = fits[0] if fits else 1000
    table.say("shares", f"they sum to 1 an image, and are read as shares of {n} votes" + ("" if fits else ", rounded"))
    return pd.Series((numbers * n).round().astype(int).astype(str), weight.index)


def _plain(label: str) -> str:
    """Return a label in NFC without invisible characters; several choices joined by |."""
    if label.startswith(('{"choices"', '["')):
        found = json.loads(label)
        label = "|".join(found["choices"] if isinstance(found, dict) else found)
    return "".join(c for c in unicodedata.normalize("NFC", label) if unicodedata.category(c) != "Cf").strip()


def _check(table: Table, options: Options) -> None:
    """Make labels plain and weights whole, order the classes, and add all faults."""
    votes, form = table.votes, table.form
    for column in ("label", "annotator"):
        codes, found = pd.factorize(votes[column])  # to map each of 200,000 cells takes a second
        votes[column] = pd.array([_plain(cell) for cell in found], votes[column].dtype)[codes]
    drop = {_plain(label) for label in options.drop_label}
    out = votes["label"].isin(drop)
    if out.any():
        table.say("rows left out", f"{out.sum()}: the label is {listed(votes.loc[out, 'label'].unique())}")
    if lacking := drop - {*votes["label"]}:
        raise InputError(f"--drop-label is {listed(lacking)}, and the labels are {listed(votes['label'].unique())}")
    votes = votes[~out]
    skipped = (votes["label"] == "") & (
        table.format in ("label-studio", "label-studio-csv", "doccano", "dcic", "prodigy")
    )
    if skipped.any():
        table.say("rows left out", f"{skipped.sum()}: skipped, the label is empty")
    votes = votes[~skipped]
    classes = [*dict.fromkeys(votes["label"])] if form == "counts" else sorted({*votes["label"]})
    if form != "counts" and all(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", label) for label in classes):
        classes.sort(key=float)
    unasked = {*classes} - {*options.classes} if options.classes else set()
    classes = [_plain(label) for label in options.classes] or classes
    whole = votes["weight"].str.fullmatch(r"\+?[0-9]{1,9}(\.0*)?").astype(bool)
    weight = votes["weight"].where(whole, "1").astype(float).astype(np.int64)
    loose = {label for label in votes["label"].unique() if _NO_CLASS.fullmatch(label.lower())} - {*options.classes}
    if form == "wide":
        loose |= {label for label in votes["label"].unique() if _BLANK.fullmatch(label.lower())} - {*options.classes}
    several = {c for c in classes if len(some := re.split(r" ?[|;,] ?", c)) > 1 and {*some} <= {*classes}}
    joined = r"\[.*\]|.+;.+" + (r"|.*\|.*" if table.format != "table" else "")
    several = (several | {c for c in classes if re.fullmatch(joined, c)}) - {*options.classes}
    control = "[\x00-\x1f\x7f\u2028\u2029]"
    broken = votes["image"].str.contains(control) | votes["label"].str.contains(control)
    wrong = {
        "no image is named": votes["image"].isin(["", "."]),
        "there is a line break or control character in {image!r:.60} or {label!r:.60}; a stray quotation mark?": broken,
        "the label of '{image}' is empty; name one, or --drop-label ''": votes["label"] == "",
        "'{label}' is {weight!r}, expected a whole number of at least 0, and 0 for no vote": ~whole,
        "'{label}' may be several labels, expected one a row; --drop-label '{label}', or name all --classes": votes[
            "label"
        ].isin(several),
        "'{label}' may be no class; --drop-label '{label}', or name all --classes": votes["label"].isin(loose),
        "'{label}' is not among --classes; add it, or --drop-label '{label}'": votes["label"].isin(unasked),
    }
    for what, cells in wrong.items():
        for row in (
            votes[cells]
            .drop_duplicates(["image", "label"] if re.search("{(image|weight)", what) else "label")
            .head(21)
            .itertuples()
        ):
            table.fault(row.Index, what.format(**row._asdict()))
    alike = pd.Series(classes, dtype=str).groupby([_folded(label) for label in classes]).agg(list)
    for group in alike[alike.map(len) > 1]:
        table.say("warning", f"these labels look alike and are different classes: {listed(map(repr, group))}")
    votes = votes.assign(weight=weight, label=pd.Categorical(votes["label"], classes))
    table.votes = votes[votes["image"] != ""]


def _folded(label: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    return text.lstrip("0") or "0" if text.isdecimal() else text
