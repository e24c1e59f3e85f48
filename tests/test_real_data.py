import csv
import io
import itertools
import json
import os
import pickle
import re
import shlex
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beyond_hard_labels.analysis.images import agreement, describe, raters
from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import notebook
from beyond_hard_labels.cli import main
from beyond_hard_labels.data import own, sets, shapes, tables, votes
from beyond_hard_labels.runs import ensure, execute, inputs, store, study
from conftest import TINY, set_options

CLASSES = ("cat", "dog", "owl")
SMALL = {name: TINY[name] for name in ("epochs", "batch_size", "splits")}


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def counts():
    """Votes of ten images: some unanimous, some divided, one tied."""
    drawn = np.random.default_rng(0).integers(0, 5, (10, 3))
    drawn[:, 0] += 1
    drawn[:2] = [[4, 0, 0], [2, 2, 0]]
    return drawn


@pytest.fixture
def files(tmp_path, counts):
    """A folder of ten colour images, two of them in a folder of their own, and both tables of their votes."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    image_names = [f"{'more/' if i > 7 else ''}{i:02d}.png" for i in range(10)]
    for name, pixels in zip(image_names, pictures(), strict=True):
        Image.fromarray(pixels).save(folder / name)
    by_vote = [
        (name, CLASSES[c], f"annotator {i}")
        for name, row in zip(image_names, counts, strict=True)
        for i, c in enumerate(np.repeat(range(3), row))
    ]
    write_csv(tmp_path / "votes.csv", [("image", "label", "annotator"), *by_vote])
    by_image = [(name, *row) for name, row in zip(image_names, counts.tolist(), strict=True)]
    write_csv(tmp_path / "counts.csv", [("image", *CLASSES), *by_image])
    return tmp_path


def pictures():
    return np.random.default_rng(1).integers(0, 256, (10, 20, 20, 3), np.uint8)


def make(files, table="votes.csv", size=20, name="mine", **options):
    return own.import_votes(name, files / table, files / "images", size, tables.Options(**options))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def put(name="set", folder=None, **changes):
    """Write a file into the cache, a good set but for the changes."""
    arrays = {
        "images": np.arange(6 * 16 * 16, dtype=np.uint8).reshape(6, 16, 16),
        "counts": np.array([[3, 1]] * 6),
        "class_names": np.array(["a", "b"]),
        "labels": np.zeros(6 if changes.get("images") is None else len(changes["images"]), int),
    }
    arrays = {part: array for part, array in (arrays | changes).items() if array is not None}
    path = (folder or sets.folders()[1]) / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


# Tables and folders


def test_both_forms_of_the_table_in_any_order_give_the_votes_and_the_pixels_that_went_in(files, counts):
    prints = []
    for table, reverse in itertools.product(("votes.csv", "counts.csv"), (False, True)):
        header, *rows = (files / table).read_text().splitlines()
        (files / table).write_text("\n".join([header, *(rows[::-1] if reverse else rows)]))
        make(files, table)
        prints.append(sets.fingerprint("mine"))
        if table == "votes.csv":
            assert np.array_equal(votes.count(sets.read("mine").ratings, 3), counts)
            assert own.annotators("mine") == sorted(f"annotator {i}" for i in range(counts.sum(axis=1).max()))
    assert len(set(prints)) == 2  # with annotators, and without
    data = sets.read("mine")
    assert np.array_equal(data.votes, counts)
    assert np.array_equal(data.images, pictures().transpose(0, 3, 1, 2))
    assert np.array_equal(data.truth, counts / counts.sum(axis=1, keepdims=True))
    assert (data.name, data.class_names) == ("mine", CLASSES)
    assert data.ids == (*(f"{i:02d}.png" for i in range(8)), "more/08.png", "more/09.png")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "2"], ("2", "9", "10")),
        (["1.5", "-2", "9"], ("-2", "1.5", "9")),
        (["10", "9", "b"], ("10", "9", "b")),
    ],
    ids=str,
)
def test_classes_of_votes_are_ordered_by_size_if_all_are_numbers_else_by_alphabet(files, labels, order):
    text = (files / "votes.csv").read_text()
    for old, new in zip(CLASSES, labels, strict=True):
        text = text.replace(old, new)
    (files / "votes.csv").write_text(text)
    make(files)
    assert sets.read("mine").class_names == order


def test_a_table_from_a_spreadsheet_is_read_with_its_mark_spaces_and_empty_lines(files, counts):
    text = (files / "counts.csv").read_text().replace(",", " , ").replace("\n", "\r\n") + "\r\n,,,\r\n"
    (files / "counts.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    make(files, "counts.csv")
    assert np.array_equal(sets.read("mine").votes, counts)


def test_a_set_is_grey_if_all_files_are_and_in_colour_if_one_is_not(files):
    for path in (files / "images").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    make(files, name="grey")
    Image.new("RGB", (20, 20), (255, 0, 0)).save(files / "images" / "00.png")
    make(files, name="mixed")
    grey, mixed = sets.read("grey"), sets.read("mixed")
    assert (grey.images.shape[1], mixed.images.shape[1]) == (1, 3)
    assert np.array_equal(mixed.images[1:], np.repeat(grey.images[1:], 3, axis=1))
    assert mixed.images[0, :, 0, 0].tolist() == [255, 0, 0]


def test_whatever_pillow_opens_becomes_grey_or_colour(tmp_path):
    (tmp_path / "images").mkdir()
    modes = (("L", "jpg", 1), ("LA", "png", 1), ("1", "bmp", 1), ("RGB", "jpg", 3), ("RGBA", "png", 3), ("P", "gif", 3))
    for mode, suffix, channels in modes:
        for path in (tmp_path / "images").iterdir():
            path.unlink()
        for i in range(5):
            Image.fromarray(pictures()[i]).convert(mode).save(tmp_path / "images" / f"{i}.{suffix}")
        write_csv(tmp_path / "counts.csv", [("image", "a", "b"), *((f"{i}.{suffix}", 1, i) for i in range(5))])
        make(tmp_path, "counts.csv", name=mode)
        assert sets.read(mode).images.shape == (5, channels, 20, 20)


def test_an_image_is_squeezed_into_the_square_and_turned_as_its_camera_says(files):
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, 40:] = 200
    Image.fromarray(wide).save(files / "images" / "00.png")
    picture = Image.fromarray(pictures()[1])
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(files / "images" / "01.png", exif=exif)
    make(files)
    squeezed, turned = sets.read("mine").images[:2]
    assert (squeezed[:, :, :7] == 0).all()
    assert (squeezed[:, :, 13:] == 200).all()
    assert np.array_equal(turned, np.rot90(pictures()[1], k=-1).transpose(2, 0, 1))


def image(name, content):
    return lambda f: (f / "images" / name).write_bytes(content)


def table(content):
    return lambda f: (f / "counts.csv").write_bytes(content)


def png(mode="L"):
    file = io.BytesIO()
    Image.new(mode, (20, 20)).save(file, "PNG")
    return file.getvalue()


FAULTS = [  # what is done, or what in counts.csv becomes what, and what is said of it
    (image("new.png", png()), "images/new.png: the image has no votes in counts.csv"),
    (lambda f: (f / "images" / "03.png").unlink(), "counts.csv, line 5: votes for '03.png', which is not in"),
    (image("03.png", png("RGB")[:44]), "images/03.png: the image cannot be read: "),
    (image("03.png", b"no image"), "images/03.png: the image cannot be read: cannot identify"),
    (image("03.png", png("I;16")), "images/03.png: the image cannot be read: its pixels are of mode I;16, expected 8"),
    (("00.png,4,", "00.png,-4,"), "counts.csv, line 2: 'cat' is '-4', expected a whole number of at least 0"),
    (("00.png,4,", "00.png,4.5,"), "counts.csv, line 2: 'cat' is '4.5', expected a whole number"),
    (("00.png,4,", "00.png,0,"), "counts.csv, line 2: '00.png' has no votes"),
    (("00.png,4,", "00.png,"), "counts.csv, line 2: 'owl' is '', expected a whole number"),
    (("00.png,4,", "00.png,4,7,"), "counts.csv cannot be read as a table .* Expected 4 fields in line 2"),
    (("01.png", "00.png"), "counts.csv, line 3: a second row for '00.png'"),
    (("01.png", ""), "counts.csv, line 3: no image is named"),
    (("01.png", "../x.png"), "counts.csv, line 3: votes for '../x.png', which is not in"),
    (("01.png", "/x.png"), "counts.csv, line 3: votes for '/x.png', which is not in"),
    (("image", "which"), "counts.csv, line 1: the columns are which, cat, dog, owl; expected 'image', and 'label'"),
    (("image,cat,dog,owl", "image;cat;dog;owl"), "line 1: ';' separates the header, but no other line: 00.png,4,0,0"),
    (("dog", "cat"), "the columns are image, cat, cat, owl; expected all of different names"),
    (table(b"image,cat\n00.png,1\n"), "counts.csv: 1 class.es., expected at least 2"),
    (table(b""), "counts.csv is empty"),
    (table(b"image,label\n"), "counts.csv has no rows, only the columns image, label"),
    (lambda f: (f / "counts.csv").unlink(), "counts.csv cannot be read: .*No such file"),
    (table("image,Käse\n".encode("latin-1")), "counts.csv, line 1: it is no text in UTF-8; .* --encoding latin-1"),
    (lambda f: (f / "images").rename(f / "pictures"), "there is no folder of images"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_fault_is_named_with_its_place_and_nothing_is_left_behind(files, spoil, message):
    make(files, "counts.csv", name="before")
    spoil(files) if callable(spoil) else edit(files / "counts.csv", *spoil)
    with pytest.raises(InputError, match=message):
        make(files, "counts.csv")
    assert [path.name for path in (paths.build_folder() / "sets").iterdir()] == ["before.npz"]


def test_a_line_is_counted_in_the_file_though_cells_are_quoted_over_many(files):
    (files / "votes.csv").write_text('image,label,note\n00.png,cat,"first\nsecond"\n\n01.png,,\n')
    with pytest.raises(InputError, match=r"votes\.csv, line 5: the label of '01\.png' is empty"):
        make(files)


def test_columns_of_counts_may_have_any_name(files, counts):
    edit(files / "counts.csv", "image,cat,dog,owl", "image,weight,annotator,line")
    with pytest.raises(InputError, match="--label-column"):
        make(files, "counts.csv")
    make(files, "counts.csv", form="counts")
    assert np.array_equal(sets.read("mine").votes, counts)
    assert sets.read("mine").class_names == ("weight", "annotator", "line")


def test_all_faults_are_listed_at_once_up_to_twenty(files):
    edit(files / "counts.csv", "00.png,4,", "00.png,-4,")
    (files / "images" / "03.png").write_text("no image")
    Image.new("L", (20, 20)).save(files / "images" / "new.png")
    with pytest.raises(InputError, match="3 fault") as raised:
        make(files, "counts.csv")
    assert all(part in str(raised.value) for part in ("line 2", "03.png", "new.png"))
    for i in range(30):
        Image.new("L", (20, 20)).save(files / "images" / f"new_{i}.png")
    with pytest.raises(InputError, match="33 fault") as raised:
        make(files, "counts.csv")
    assert len(str(raised.value).splitlines()) == 22
    assert str(raised.value).endswith("and 13 more")


def test_files_that_are_no_images_are_passed_over(files):
    (files / "images" / "notes.txt").write_text("taken on a Monday")
    (files / "images" / "._00.png").write_text("what a system leaves behind")
    make(files)
    assert len(sets.read("mine").ids) == 10


@pytest.mark.parametrize("name", ["synthetic", "../out", "a/b", "", ".hidden"])
def test_a_set_has_a_plain_name_that_is_not_taken(files, name):
    with pytest.raises(InputError, match="the set's name is"):
        make(files, name=name)


def test_five_images_of_sixteen_pixels_are_the_least(files):
    with pytest.raises(InputError, match="image_size is 8, expected an integer, at least 16"):
        make(files, size=8)
    for n in (5, 4):
        rows = [(f"{i:02d}.png", 1, i) for i in range(n)]
        write_csv(files / "counts.csv", [("image", "a", "b"), *rows])
        for path in sorted((files / "images").rglob("*.png"))[n:]:
            path.unlink()
        if n == 5:
            make(files, "counts.csv", size=16)
            assert len(sets.read("mine").ids) == 5
    with pytest.raises(InputError, match=r"4 image.*expected at least 5"):
        make(files, "counts.csv")


def test_a_set_that_cannot_be_written_leaves_the_one_before(files, monkeypatch):
    make(files)
    before = sets.fingerprint("mine")
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda file, **arrays: file.write(b"half") / 0)
        with pytest.raises(ZeroDivisionError):
            make(files, size=30)
    assert [path.name for path in (paths.build_folder() / "sets").iterdir()] == ["mine.npz"]
    assert sets.fingerprint("mine") == before


# Files of sets


def test_a_set_is_looked_up_among_the_users_own_first_then_in_the_cache(monkeypatch, tmp_path):
    path = put(class_names=np.array(["cache", "b"]))
    path.chmod(stat.S_IRUSR)  # which need not be writable
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    before = sorted(path.parent.iterdir())
    assert sets.read("set").class_names == ("cache", "b")
    assert len(sets.fingerprint("set")) == 64
    assert sorted(path.parent.iterdir()) == before
    put(class_names=np.array(["own", "b"]), folder=paths.build_folder() / "sets")
    assert sets.read("set").class_names == ("own", "b")
    assert sets.names() == ["synthetic", "set"]
    monkeypatch.delenv("BHL_DATA_DIR")  # without a cache of its own the platform's is taken
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    put("other")
    assert (tmp_path / "home") in sets.locate("other").parents


def test_a_published_file_is_read_as_the_contract_says():
    colour = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    put(images=colour, labels=None)
    data = sets.read("set")
    assert np.array_equal(data.images, colour.transpose(0, 3, 1, 2))
    assert data.truth[0].tolist() == [0.75, 0.25]
    assert data.ids == tuple(f"set-0000{i}" for i in range(6))
    assert (data.ratings, data.fold, data.official) == (None, None, None)
    ratings = np.array([[0, 0, 0, 1, -1], [0, -1, 0, 1, 0], *[[-1, 1, 0, 0, 0]] * 4])
    fold, labels = np.array([1, 2, 3, 4, 5, 1]), np.array([0, 1, 0, 1, 0, 1])
    put(ratings=ratings, fold=fold, labels=labels)
    for n in (None, 3):
        data = sets.read("set", n)
        assert np.array_equal(data.ratings, ratings[:n])
        assert data.ratings.dtype == np.int8
        assert np.array_equal(data.fold, fold[:n])
        assert np.array_equal(data.official, labels[:n])
        assert np.array_equal(votes.count(data.ratings, 2), data.votes)


def test_a_file_that_changed_is_read_again():
    put()
    assert len(sets.read("set").ids) == 6
    put(images=np.zeros((7, 16, 16), np.uint8), counts=np.array([[1, 1]] * 7))
    assert len(sets.read("set").ids) == 7


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["BHL_BUILD_DIR"] + "-evil",)


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


BROKEN = [
    ({"images": np.zeros((6, 16, 16))}, r"images is float64 \(6, 16, 16\), expected uint8"),
    ({"images": np.zeros((6, 16, 20), np.uint8)}, r"images is uint8 \(6, 16, 20\)"),
    ({"images": np.zeros((6, 16, 16, 4), np.uint8)}, r"images is uint8 \(6, 16, 16, 4\)"),
    ({"images": np.zeros(6, np.uint8)}, r"images is uint8 \(6,\)"),
    ({"images": np.zeros((6, 8, 8), np.uint8)}, "H at least 16"),
    ({"counts": np.ones((5, 2), int)}, r"truth is \(5, 2\), expected 6 rows"),
    ({"counts": np.ones((6, 3), int)}, r"votes are \(6, 3\), expected \(N, 2\)"),
    ({"counts": np.array([[1, 0]] * 5 + [[0, 0]])}, r"without any vote: 5 \[0, 0\]"),
    ({"counts": np.array([[1, -1]] * 6)}, r"negative: 0 \[1, -1\]"),
    ({"counts": np.full((6, 2), "1")}, "votes are of type"),
    ({"class_names": np.arange(2)}, r"class_names is int64 \(2,\), expected text"),
    ({"class_names": np.array(["a", "a"])}, "class_names .* all different"),
    ({"class_names": np.array(["a"]), "counts": np.ones((6, 1), int)}, "class_names .* at least 2"),
    ({"ids": np.array(["x", "y"])}, r"images is \(6, 1, 16, 16\), expected 2 rows for 2 ids"),
    ({"ids": np.array(["x"] * 6)}, r"ids is <U1 \(6,\), expected text .* all different"),
    ({"labels": np.full(6, 2)}, r"labels is int64 \(6,\), expected whole numbers .* from 0 to 1"),
    ({"labels": np.zeros(5, int)}, r"official is \(5,\), expected 6 rows"),
    ({"labels": np.full(6, "a")}, r"labels is <U1 \(6,\), expected whole numbers"),
    ({"fold": np.full(6, 0.5)}, r"fold is float64 \(6,\), expected whole numbers"),
    ({"fold": np.arange(6)}, r"fold is int64 \(6,\), expected .* from 1 to 1000"),
    ({"ratings": np.zeros(6, np.int8)}, r"ratings is int8 \(6,\), expected .* 2 dimension.s., from -1 to 1"),
    ({"ratings": np.array([[0, 0, 0, 1]] * 5 + [[0, 0, 1, 1]])}, r"ratings of image 5 do not make .* \[3, 1\]"),
    ({"ratings": objects(*[Evil()] * 6)}, "allow_pickle=False"),
    ({"class_names": objects("a", Evil())}, "allow_pickle=False"),
    *(({part: None}, f"it has no array '{part}'") for part in ("images", "counts", "class_names")),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_a_file_that_is_no_set_is_named_with_what_was_expected(changes, message):
    path = put(**changes)
    with pytest.raises(InputError, match=message) as raised:
        sets.read("set")
    assert str(raised.value).startswith(str(path))
    assert not Path(os.environ["BHL_BUILD_DIR"] + "-evil").exists()


def test_a_file_that_is_cut_short_at_any_place_or_changed_by_a_byte_is_named():
    path = put()
    whole = path.read_bytes()
    turned = whole[:700] + bytes([whole[700] ^ 255]) + whole[701:]
    for content in [turned, *(whole[:cut] for cut in range(0, len(whole), 97))]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path} is not a set of images"):
            sets.read("set")


def test_a_foreign_file_is_named_and_not_unpickled():
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for content in (b"image,label\n", array.getvalue(), pickle.dumps(Evil())):
        path = put()
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path} is not a set of images: it is not a zip archive"):
            sets.read("set")
    assert not Path(os.environ["BHL_BUILD_DIR"] + "-evil").exists()


# Studies


def test_an_unknown_set_is_refused_with_what_is_here_and_no_name_is_a_path_or_a_pattern():
    put("seven")
    put(folder=sets.folders()[1] / "sub")
    for name in ("six", "../seven", "sub/set", "*", ""):
        with pytest.raises(InputError, match=rf"'dataset' is '{re.escape(name)}', expected one of synthetic, seven; "):
            study.plan("smoke", dataset=name)


def test_the_file_decides_number_and_size_and_fewer_images_may_be_asked_for():
    put()
    spec = study.plan("smoke", dataset="set").spec("soft", 0)
    assert (spec.n_images, spec.image_size, spec.data_seed) == (6, 16, 0)
    fewer = study.plan("smoke", dataset="set", n_images=5).spec("soft", 0)
    assert inputs.images_of(fewer).ids == inputs.images_of(spec).ids[:5]
    assert fewer.key != spec.key
    for changes, message in (
        (
            {"n_images": 7, "data_seed": 1},
            "'n_images' is 7, expected at most the 6 images .*'data_seed' is 1, expected 0",
        ),
        ({"image_size": 32}, "'image_size' is 32, and the images of set have 16 .* expected 16; .* --image-size 32"),
    ):
        with pytest.raises(InputError, match=message):
            study.plan("smoke", dataset="set", **changes)


def test_a_changed_file_makes_its_runs_stale_and_no_others():
    for name in ("set", "other"):
        put(name)
    specs = [study.plan("smoke", dataset=name, **SMALL).spec("soft", 0) for name in ("set", "other")]
    specs.append(study.plan("smoke", **TINY).spec("soft", 0))
    for spec in specs:
        execute.execute(spec)
    assert all(map(store.find, specs))
    os.utime(sets.locate("set"), (0, 0))  # the same file under another date keeps its runs
    assert store.find(specs[0])
    put("set", counts=np.array([[1, 3]] * 6))
    assert [store.find(spec) is not None for spec in specs] == [False, True, True]
    assert ensure.find_or_train(specs[0])[0].truth[0].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(("channels", "colour"), [*itertools.product((1, 3), (False, True))], ids=str)
def test_grey_and_colour_sets_train_on_both_kinds_of_label(channels, colour):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28, 3)[: 3 + channels // 3], np.uint8)
    put(images=images, counts=rng.multinomial(9, [0.5, 0.5], 40))
    made = study.plan("smoke", dataset="set", augment_colour=colour, augment_zoom=True, **SMALL)
    for run in (ensure.find_or_train(spec)[0] for spec in made.specs()):
        assert run.predicted.shape == (8, 2)
        assert np.isfinite(run.predicted).all()
        assert run.predicted.std() > 0


def test_ties_of_real_votes_are_counted_and_a_description_says_what_the_votes_are():
    put(counts=np.array([[2, 2]] * 6))
    run, _ = ensure.find_or_train(study.plan("smoke", dataset="set", **SMALL).spec("hard", 0))
    assert run.manifest["tied_training_images"] == 4
    put(counts=np.array([[2, 2], [3, 0], [0, 5], [1, 2], [2, 2], [4, 0]]))
    found = describe(sets.read("set"))
    assert (found["votes_least"], found["votes_most"], found["tied"], found["unanimous"]) == (3, 5, 2, 0.5)


# The command and the notebook


@pytest.mark.slow
def test_the_command_makes_describes_and_trains_a_set(bhl, files):
    done = bhl("data", "import", "mine", "--votes", files / "votes.csv", "--images", files / "images")
    assert "\n10 images, 71 votes, 3 classes, in " in done.stdout
    assert json.loads(bhl("data", "describe", "mine", "--json").stdout)["shape"] == [3, 32, 32]
    shown = bhl("run", "--dataset", "mine", "--labels", "soft", "--split", 0, "--json", *set_options(epochs=1))
    assert json.loads(shown.stdout)["trained"], shown.stderr
    studied = bhl("study", "--profile", "smoke", *set_options(dataset="mine", **SMALL))
    assert len(studied.stdout.splitlines()) == 3, studied.stderr


def test_the_command_lists_the_faults_of_files_and_refuses_a_set_where_only_the_synthetic_one_will_do(bhl, files):
    edit(files / "counts.csv", "00.png,4,", "00.png,-4,")
    edit(files / "counts.csv", "01.png,2,", "01.png,x,")
    done = bhl("data", "import", "mine", "--votes", files / "counts.csv", "--images", files / "images")
    first, *listed = done.stderr.splitlines()
    assert (done.returncode, first[-11:]) == (2, "2 fault(s):")
    assert [line.strip()[:18] for line in listed] == ["counts.csv, line 2", "counts.csv, line 3"]
    put()
    for arguments, message in (
        (["book", "--profile", "smoke", "--set", "dataset=set"], "'dataset' is 'set', expected synthetic in the book"),
        (
            ["data", "export", "set", "out", "--format", "dcic"],
            "set has no known annotators, which the format of DCIC needs",
        ),
    ):
        done = bhl(*arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_chapter_refuses_another_set_and_takes_its_own_names():
    put()
    with pytest.raises(InputError, match="expected synthetic in the book"):
        notebook.study_of({"profile": "smoke", "dataset": "set"})
    with pytest.raises(InputError, match="unknown parameter 'votes_csv'"):
        notebook.study_of({"profile": "smoke", "votes_csv": None})
    assert notebook.study_of({"profile": "smoke", "votes_csv": "x"}, own=("votes_csv",)) == study.plan("smoke")


def test_a_study_goes_over_to_a_file_with_its_other_parameters():
    put()
    gone_over = study.plan("smoke", epochs=7, data_seed=3).on("set")
    assert gone_over == study.plan("smoke", epochs=7, dataset="set")
    for asked, found in ((100, len(sets.read("set").ids)), (5, 5)):  # at most as many as there are
        assert study.plan("smoke", n_images=asked).on("set").shared["n_images"] == found


@pytest.mark.parametrize(
    ("given", "seed", "message"),
    [
        (("votes.csv", "images"), 3, "'data_seed' is 3, expected 0"),
        (("votes.csv", None), 0, "expected two paths, or neither"),
        ((None, "images"), 0, "expected two paths, or neither"),
        ((1, 2), 0, "expected two paths, or neither"),
    ],
    ids=str,
)
def test_what_own_files_cannot_be_is_refused(given, seed, message):
    with pytest.raises(InputError, match=message):
        own.own_or_example(*given, image_size=20, seed=seed)


def test_the_example_has_the_asked_size_and_its_votes_follow_the_exact_distributions():
    asked = {"n_images": 50, "image_size": 20, "seed": 2}
    own.import_votes(*(parts := own.own_or_example(None, None, **asked)), 20)
    data, exact = sets.read(parts[0]), shapes.synthetic(50, 20, 2)
    assert np.array_equal(data.images, exact.images)
    assert data.class_names == exact.class_names
    assert np.array_equal(data.votes, votes.count(votes.simulate(exact.truth, own.EXAMPLE_VOTES, 2), 6))
    written = parts[1].stat().st_mtime_ns
    assert own.own_or_example(None, None, **asked) == parts
    assert parts[1].stat().st_mtime_ns == written
    assert own.own_or_example(None, None, **(asked | {"seed": 3})) != parts


def test_notebooks_that_run_at_once_share_a_set_only_if_it_is_the_same(files):
    given = (str(files / "votes.csv"), str(files / "images"))
    name = own.own_or_example(*given, image_size=20)[0]
    assert re.fullmatch("own-[0-9a-f]{8}", name)
    assert own.own_or_example(*given, image_size=20)[0] == name
    others = {own.own_or_example(*given, image_size=32)[0]}
    others.add(own.own_or_example(str(files / "counts.csv"), given[1], image_size=20)[0])
    Image.new("RGB", (20, 20)).save(files / "images" / "03.png")
    own.own_or_example("nowhere.csv", given[1], image_size=20)  # what is missing is named when the set is made
    others.add(own.own_or_example(*given, image_size=20)[0])
    assert len(others - {name}) == 3


@pytest.mark.parametrize(("table", "form"), [("votes.csv", "long"), ("votes.csv", "dcic"), ("counts.csv", "long")])
def test_what_is_exported_imports_again_to_the_same_set(files, capsys, table, form):
    make(files, table)
    before = sets.fingerprint("mine")
    assert main(["data", "export", "mine", str(files / "out"), "--format", form]) == 0
    typed = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main(typed[1:]) == 0
    assert sets.fingerprint("mine") == before


def test_agreement_of_votes_by_hand_and_who_deviates():
    assert agreement(np.array([[2, 0], [1, 1]])) == {"pairwise_agreement": 0.5, "krippendorff_alpha": 0.0}
    assert agreement(np.array([[3, 0], [0, 3]])) == {"pairwise_agreement": 1.0, "krippendorff_alpha": 1.0}
    assert agreement(np.array([[1, 0], [0, 1]])) == {"pairwise_agreement": None, "krippendorff_alpha": None}
    found = raters(np.array([[0, 0, 1], [1, 1, 0], [0, 0, -1]]), ["a", "b", "c"])
    assert found.to_numpy().tolist() == [["c", 2, 0.0], ["a", 3, 1.0], ["b", 3, 1.0]]
