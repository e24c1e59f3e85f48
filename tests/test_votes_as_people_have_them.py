"""Cases and outcomes: files as annotation tools and people write them, and what becomes of them."""

import contextlib
import gzip
import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book.tables import markdown
from beyond_hard_labels.book.tables import text as cell
from beyond_hard_labels.data import own, sets, tables
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.study import plan

N = 6
NAMES = [f"i{k}.png" for k in range(N)]
LABELS = [["cat", "cat", "dog"], ["dog", "cat", "dog"]]  # of three annotators, by turns
RIGHT = [[2, 1], [1, 2]] * 3
SHARES = [(image, [0.5, 0.25][k % 2], label) for k, image in enumerate(NAMES) for label in ("cat", "dog")]
HASHED = "/data/upload/4/0a1b2c3d-{}"


def cast(name="{}"):
    """All votes: name, annotator, label."""
    return [(name.format(image), f"w{w}", LABELS[k % 2][w]) for k, image in enumerate(NAMES) for w in range(3)]


def text(header, rows, separator=","):
    return "\n".join([header, *(separator.join(map(str, row)) for row in rows)]) + "\n"


def long(header="image,annotator,label", name="{}", more=(), separator=","):
    return text(header, [*cast(name), *more], separator)


def counts(header="image,cat,dog", more=lambda k: (), rows=RIGHT):
    return text(header, [(image, *rows[k], *more(k)) for k, image in enumerate(NAMES)])


def wide(header="image,ann1,ann2,ann3", labels=LABELS):
    return text(header, [(image, *labels[k % 2]) for k, image in enumerate(NAMES)])


def label_studio(email=False):
    tasks = []
    for k, image in enumerate(NAMES):
        given = [
            {
                "completed_by": {"id": w, "email": f"w{w}@x"} if email else w,
                "was_cancelled": w == 3,
                "ground_truth": w == 4,
            }
            | {"result": [{"type": "choices", "value": {"choices": [(LABELS[k % 2] + ["cat", "dog"])[w]]}}]}
            for w in range(5)
        ]
        tasks.append({"id": k, "data": {"image": HASHED.format(image)}, "annotations": given})
    return json.dumps(tasks)


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


def prodigy():
    rows = [{"image": i, "accept": [c], "answer": "accept", "_annotator_id": w} for i, w, c in cast()]
    return lines([*rows, rows[0] | {"answer": "reject", "_annotator_id": "x"}, rows[0] | {"answer": "ignore"}])


def zooniverse():
    header = "classification_id,user_name,gold_standard,annotations,subject_data"
    cells = [
        (0, w, "", json.dumps([{"task": "T0", "value": c}]), json.dumps({"7": {"retired": None, "Filename": i}}))
        for i, w, c in cast()
    ]
    return text(header, [['"' + str(cell).replace('"', '""') + '"' for cell in row] for row in cells])


def dcic():
    notes = [
        {"name": f"INVALID{w}", "dataset_name": "X", "user_mail": "INVALID", "annotation_time": 0}
        | {"annotations": [{"image_path": f"X/{i}", "class_label": c} for i, who, c in cast() if who == f"w{w}"]}
        for w in range(3)
    ]
    return json.dumps(notes)


def mturk():
    header = '"HITId","WorkerId","AssignmentStatus","Input.image_url","Answer.category.label","Reject"'
    rows = [("h", w, "Approved", f"https://s3.example.com/b/{i}", c, "") for i, w, c in cast()]
    rows.append(("h", "bad", "Rejected", "https://s3.example.com/b/i0.png", "dog", "x"))
    return text(header, [[f'"{cell}"' for cell in row] for row in rows])


def toloka():
    header = "INPUT:image\tOUTPUT:result\tGOLDEN:result\tASSIGNMENT:worker_id\tASSIGNMENT:status"
    rows = [(i, c, "", w, "APPROVED") for i, w, c in cast()]
    return text(
        header, [*rows, (NAMES[0], "dog", "dog", "x", "APPROVED"), (NAMES[0], "dog", "", "y", "REJECTED")], "\t"
    )


def minimal():
    return json.dumps([{"image": HASHED.format(i), "id": 0, "choice": c, "annotator": w} for i, w, c in cast()])


def cifar():
    header = "annotator_id,is_attn_check,true_category,chosen_category,chosen_label,image_filename"
    rows = [(w, 0, "cat", c, 0, i) for i, w, c in cast()]
    return text(header, [*rows, ("w0", 1, "cat", "dog", 1, NAMES[0])])


def appen():
    rows = [(1, "false", "false", w, i, c, "") for i, w, c in cast()]
    rows += [(2, "true", "false", "x", NAMES[0], "dog", "dog"), (3, "false", "true", "y", NAMES[0], "dog", "")]
    return text("_unit_id,_golden,_tainted,_worker_id,image_url,animal,animal_gold", rows)


READ = {  # case: (file, options, annotators)
    "long": (long(), {}, 3),
    "semicolons": (long("image;annotator;label", separator=";"), {}, 3),
    "tabs, capitals": (long("Image\tAnnotator\tLabel", separator="\t"), {}, 3),
    "utf16": (long().encode("utf-16"), {}, 3),
    "gzip": (gzip.compress(long().encode()), {}, 3),
    "sep line": ("sep=,\n" + long(), {}, 3),
    "crowd-kit": (long("task,worker,label"), {}, 3),
    "named columns": (long("a,b,c"), {"image_column": "a", "annotator_column": "b", "label_column": "c"}, 3),
    "backslashes": (long(name="C:\\me\\{}"), {}, 3),
    "addresses": (long(name="https://example.com/a%20b/{}?x=1"), {}, 3),
    "other case and extension": (
        long(name="I{}").replace("Ii", "I").replace("png", "JPG"),
        {"match": "stem"},
        3,
    ),
    "label studio": (label_studio(), {}, 3),
    "label studio, e-mail": (label_studio(email=True), {}, 3),
    "label studio json-min": (minimal(), {}, 3),
    "mturk": (mturk(), {}, 3),
    "mturk, boxes": (
        text(
            "HITId,WorkerId,AssignmentStatus,Input.image_url,Answer.c.cat,Answer.c.dog",
            [("h", w, "Approved", i, *(str(c == one).lower() for one in ("cat", "dog"))) for i, w, c in cast()],
        ),
        {},
        3,
    ),
    "toloka": (toloka(), {}, 3),
    "zooniverse": (zooniverse(), {}, 3),
    "zooniverse, a survey": (
        re.sub(r'(""value"": )(""[a-z]+"")', r'\1[{""choice"": \2}]', zooniverse()).replace("Filename", "#name"),
        {},
        3,
    ),
    "prodigy": (prodigy(), {}, 3),
    "doccano": (lines({"id": 1, "filename": i, "label": [c]} for i, _, c in cast()), {}, 0),
    "dcic": (dcic(), {}, 3),
    "cifar10h": (cifar(), {}, 3),
    "appen": (appen(), {}, 3),
    "ferplus": (
        counts("Image name,Usage,cat,dog,unknown,NF", rows=[["T", *row, 0, 1] for row in RIGHT]) + ",T,0,0,0,10\n",
        {},
        0,
    ),
    # 1 columns taken for classes
    "wide, codes": (wide(labels=[[0, 0, 1], [1, 0, 1]]), {}, 3),
    "wide, text": (wide("image,anna,bob,cy"), {}, 3),
    "wide, asked for": (wide("image,x,y,z", [[0, 0, 1], [1, 0, 1]]), {"form": "wide"}, 3),
    "a total": (counts("image,cat,dog,total", lambda k: (3,)), {}, 0),
    "an index": (text("Unnamed: 0,image,cat,dog", [(k, i, *RIGHT[k]) for k, i in enumerate(NAMES)]), {}, 0),
    "sizes": (counts("image,cat,dog,width,height", lambda k: (640, 480)), {}, 0),
    "an index, a year": (counts("image,cat,dog,idx,year", lambda k: (7, 2020)), {}, 0),
    # 2 weights dropped
    "count": (
        text(
            "image,label,count",
            [(i, c, RIGHT[k][j]) for k, i in enumerate(NAMES) for j, c in enumerate(("cat", "dog"))],
        ),
        {},
        0,
    ),
    "n": (
        text("file,class,N", [(i, c, RIGHT[k][j]) for k, i in enumerate(NAMES) for j, c in enumerate(("cat", "dog"))]),
        {},
        0,
    ),
    "frequencies": (
        text(
            "image,label,freq",
            [(i, c, RIGHT[k][j]) for k, i in enumerate(NAMES) for j, c in enumerate(("cat", "dog"))],
        ),
        {},
        0,
    ),
    "shares, a row a class": (
        text("image,label,probability", [(i, c, [p, 1 - p][c == "dog"]) for i, p, c in SHARES]),
        {},
        0,
    ),
    "shares": (counts(rows=[[0.5, 0.5], [0.25, 0.75]] * 3), {}, 0),
    # 3 the same annotator again
    "the same row again": (long(more=cast()[:4]), {}, 3),
    "a change of mind, last": (
        long(more=[(NAMES[0], "w2", "dog")]).replace("i0.png,w2,dog", "i0.png,w2,cat", 1),
        {"repeats": "last"},
        3,
    ),
    "an address": (long("image,email,label", more=cast()[:1]), {}, 3),
    "a worker by another name": (long("image,worker_id,label", more=cast()[:1]), {}, 3),
    # 4 rejected, golden, skipped
    "rejected": (
        text(
            "image,annotator,label,AssignmentStatus",
            [*((*v, "Approved") for v in cast()), (NAMES[0], "x", "dog", "Rejected")],
        ),
        {},
        3,
    ),
    "where": (
        text("image,annotator,label,state", [*((*v, "ok") for v in cast()), (NAMES[0], "x", "dog", "no")]),
        {"where": ("state=ok",)},
        3,
    ),
    "skips dropped": (long(more=[(NAMES[0], "x", "skip")]), {"drop_label": ("skip",)}, 3),
    # 8 labels
    "invisible": (long().replace("cat", "c\u200bat").replace("dog", "\u3000dog"), {}, 3),
    "nfd": (long().replace("dog", "d\u00f6g", 4).replace("dog", "do\u0308g"), {}, 3),
    "byte order mark": ("\ufeff" + long(), {}, 3),
}
REFUSED = {  # case: (file, options, what is said)
    "codes or counts": (
        text("image,x,y,z", [(i, k % 3, k % 3, k % 3) for k, i in enumerate(NAMES)]),
        {},
        "in each of the columns x, y, z",
    ),
    "numbered columns": (
        text("image,a1,a2,a3", [(i, k % 2, 1, k % 3) for k, i in enumerate(NAMES)]),
        {},
        "numbers stand in a1, a2, a3",
    ),
    "a column without which the sums agree": (
        text("image,cat,dog,pages", [(i, *RIGHT[k], 30 + k) for k, i in enumerate(NAMES)]),
        {},
        "is 'pages' a class?",
    ),
    "blanks by another name": (wide().replace("cat", "NA", 2), {}, "--drop-label 'NA'"),
    "a list in a label": (long().replace("cat", "['cat']", 1), {}, "several labels"),
    "a list with semicolons": (long().replace("cat", "cat;dog", 1), {}, "several labels"),
    "label beside counts": (counts("image,cat,dog,label", lambda k: ("cat",)), {}, "--form"),
    "confidence as count": (long("image,label,x"), {"count_column": "confidence"}, "confidence"),
    "a change of mind": (
        long(more=[(NAMES[0], "w2", "cat")]),
        {},
        "line 20: 'w2' votes on 'i0.png' again, now 'cat'; --repeats",
    ),
    "skip": (long(more=[(NAMES[0], "x", "skip")]), {}, "--drop-label 'skip'"),
    "status": (
        text("image,annotator,label,status", [(*v, "ok") for v in cast()] + [(NAMES[0], "x", "dog", "rejected")]),
        {},
        "--where 'status=VALUE'",
    ),
    "gold": (
        text("image,annotator,label,is_gold", [(*v, 0) for v in cast()] + [(NAMES[0], "x", "dog", 1)]),
        {},
        "--where 'is_gold=VALUE'",
    ),
    **{
        f"{column} {bad}": (
            text(
                f"image,annotator,label,{column}",
                [(*v, good) for v in cast()] + [(NAMES[0], "x", "dog", bad)],
            ),
            {},
            f"--where '{column}=VALUE'",
        )
        for column, good, bad in [("valid", "true", "false"), ("is_test", 0, 1), ("approved", "yes", "no")]
    },
    # 9 a stray quotation mark
    "open quote": (long().replace("cat", '"cat', 1), {}, "line 2: a quotation mark is not closed"),
    "quote swallows rows": (long().replace("cat", '"cat', 1).replace("i3.png", 'i3.png"', 1), {}, "line 2"),
    "line break in a label": (long().replace("cat", '"cat\nsat"', 1), {}, "line 3: there is a line break"),
    "latin": (long().replace("cat", "ch\u00e2t").encode("latin-1"), {}, "--encoding latin-1"),
    "excel": (b"PK\x03\x04", {}, "Excel"),
    "numpy": (b"\x93NUMPY", {}, "NumPy"),
    "other json": ('{"a": 1, "b": "' + "x" * 9999 + '"}', {}, "JSON of no known format"),
    "two tasks": (zooniverse().replace("}]", '}, {""value"": ""yes""}]', 1), {}, "line 2: 'cat|yes' may be several"),
    "no subject": (zooniverse().replace("{", "{}{", 2), {}, "line 2: it does not fit the format zooniverse"),
    "damaged gzip": (gzip.compress(long().encode())[:40] + b"damaged", {}, "cannot be read"),
    "blank characters": (b"\x1c\n", {}, "is empty"),
    "only the names of images": ("image,\ni0.png,dog\n", {}, "--label-column"),
    "two labels": (long().replace("cat", "cat|dog", 1), {}, "several labels"),
    "names that lack": (long(name="z{}"), {}, "--match name"),
    "duplicate header": (long("image,label,label"), {}, "all of different names"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for k, name in enumerate(NAMES):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return tmp_path


def make(folder, content, **options):
    (folder / "votes").write_bytes(content if isinstance(content, bytes) else content.encode())
    return dict(own.import_votes("mine", folder / "votes", folder / "images", 16, tables.Options(**options)))


@pytest.mark.parametrize("case", READ)
def test_a_file_that_is_read_gives_the_votes_that_are_in_it(folder, case):
    content, options, annotators = READ[case]
    make(folder, content, **options)
    data = sets.read("mine")
    assert data.votes.tolist() == ([[2, 2], [1, 3]] * 3 if case.startswith("shares") else RIGHT)
    assert (0 if data.ratings is None else data.ratings.shape[1]) == annotators


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_refused_is_so_with_the_remedy(folder, case):
    content, options, message = REFUSED[case]
    with pytest.raises(InputError) as raised:
        make(folder, content, **options)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 5000


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_file_is_read_or_refused_in_words(folder, seed):
    rng = np.random.default_rng(seed)
    for content, options, _ in READ.values():
        damaged = bytearray(content if isinstance(content, bytes) else content.encode())
        for at in rng.integers(0, len(damaged), 3):
            damaged[at : at + rng.integers(0, 9)] = rng.choice([b"", b'"', b",", b"\n", b"[]", b"null", b"{}", b"\xff"])
        (folder / "votes").write_bytes(damaged)
        with contextlib.suppress(InputError):
            tables.read(folder / "votes", tables.Options(**options))


def test_columns_that_are_not_read_and_labels_that_look_alike_are_named(folder):
    said = make(folder, text("image,label,confidence", [(i, c, 0.5) for i, _, c in cast()]).replace("cat", "Dog", 2))
    assert said["not read"] == "confidence"
    assert "'Dog', 'dog'" in said["warning"]


@pytest.mark.parametrize("name", ["again.png", "other.bmp", "below/symbolic.png", "other.webp"])
def test_equal_pictures_are_one_image_with_all_votes_also_through_a_link(folder, name):
    first, again = folder / "images" / "i0.png", folder / "images" / name
    again.parent.mkdir(exist_ok=True)
    match again.suffix:
        case ".bmp" | ".webp":
            Image.open(first).save(again, lossless=True)
        case _:
            os.link(first, again) if "/" not in name else again.symlink_to(first)
    said = make(folder, long(more=[(name, "w0", "dog"), (name, "w1", "dog")]))
    assert said["equal pictures"].startswith("1, each one image with all its votes")
    data = sets.read("mine")
    assert data.votes[[i in ("i0.png", name) for i in data.ids]].tolist() == [[2, 3]]


@pytest.mark.parametrize("label", ["NA", "01", "a|<b>", "null"])
def test_labels_are_the_text_that_stands_in_the_file_in_the_set_and_in_the_first_table_of_the_chapter(folder, label):
    make(folder, long().replace("cat", label))
    assert sorted(sets.read("mine").class_names) == sorted([label, "dog"])
    first = tables.read(folder / "votes").votes.head(5)[["image", "label"]].astype(str)
    assert f"| {cell(label)} |" in markdown(first)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_put_on_white_and_said(folder, mode):
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (5, 5, 15, 15))
    clear.convert(mode).save(folder / "images" / "i0.png")
    said = make(folder, long())
    assert said["transparent, put on white"] == "1: i0.png"
    image = sets.read("mine").images[0]
    assert (image[:, 0, 0].min(), image[:, 8, 8].max()) == (255, 0)


def test_only_those_who_rated_every_image_count_where_it_is_asked_for(folder):
    make(folder, long(more=[("i0.png", "passing by", "dog"), ("i1.png", "passing by", "dog")]))
    every, complete = (
        images_of(plan("smoke", dataset="mine", raters=raters).spec("soft", 0)).votes for raters in ("all", "complete")
    )
    assert complete.tolist() == RIGHT
    assert (every - complete).tolist() == [[0, 1], [0, 1], *[[0, 0]] * 4]


def test_a_dry_run_says_it_all_and_writes_nothing(folder):
    (folder / "votes").write_text(long())
    said = own.import_votes("dry", folder / "votes", folder / "images", 16, dry_run=True)
    assert dict(said)["images"] == "6"
    assert "dry" not in sets.names()


def test_a_folder_of_a_file_an_annotator_is_read(folder):
    (folder / "cvat").mkdir()
    for w in range(3):
        tags = "".join(f'<image name="{i}"><tag label="{c}"/></image>' for i, who, c in cast() if who == f"w{w}")
        (folder / "cvat" / f"w{w}.xml").write_text(f"<annotations>{tags}</annotations>")
    own.import_votes("mine", folder / "cvat", folder / "images", 16)
    assert sets.read("mine").votes.tolist() == RIGHT
    assert own.annotators("mine") == ["w0", "w1", "w2"]


def test_names_in_other_normal_forms_are_one_image(folder):
    name = unicodedata.normalize("NFD", "\u00e9.png")
    (folder / "images" / "i0.png").rename(folder / "images" / name)
    make(folder, long().replace("i0.png", unicodedata.normalize("NFC", name)))
    assert name in sets.read("mine").ids


CASES = Path(__file__).parents[2] / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="these files are not here")
def test_every_collected_case_is_read_or_refused_in_words():
    for case in sorted(CASES.iterdir()):
        tables_of = [p for p in case.iterdir() if p.is_file() and p.name.startswith(("votes", "export", "answers"))]
        for table in tables_of:
            try:
                own.import_votes("mine", table, case / "images", 16)
            except InputError as error:
                assert str(error).strip(), case
