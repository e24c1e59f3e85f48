import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

import archives
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import dcic, shapes, votes

NOTES = "MiceBone/annotations.json"


def read(tmp_path, members=None, class_names=archives.CLASSES, name="MiceBone", **changes):
    path = archives.pack(tmp_path / f"{name}.zip", archives.micebone()[0] if members is None else members, **changes)
    with zipfile.ZipFile(path) as archive:
        return dcic.read(archive, name, class_names)


def notes(edit):
    """Return the annotations after a change."""
    sets = json.loads(archives.micebone()[0][NOTES])
    changed = edit(sets)
    return json.dumps(sets if changed is None else changed).encode()


def image(number):
    return next(m for m in archives.micebone()[0] if f"#{number:04d}_" in m)


def picture(mode="RGB", size=(archives.SIDE, archives.SIDE)):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


# What is read


@pytest.fixture
def found(tmp_path):
    return read(tmp_path)


def test_votes_ratings_folds_and_pixels_are_those_that_were_written(found):
    truth = archives.micebone()[1]
    assert set(found["ids"]) == set(truth)
    labels, folds, pixels = map(np.array, zip(*(truth[image_id] for image_id in found["ids"]), strict=True))
    assert np.array_equal(found["ratings"], labels)
    assert np.array_equal(found["fold"], folds)
    assert np.array_equal(found["images"], pixels)
    assert found["counts"].tolist() == [[(row == c).sum() for c in range(3)] for row in labels]
    assert found["class_names"].tolist() == ["g", "nr", "ug"]
    prefix = [archives.CLASSES.index(image_id.split("#")[0]) for image_id in found["ids"]]
    assert (found["counts"].argmax(axis=1) == prefix).mean() < 0.6  # the class in front of a name is no label
    assert not any("[" in image_id or "." in image_id for image_id in found["ids"])  # an id ends at its bracket


def test_the_order_of_rows_is_not_that_of_the_archive_and_mixes_folds(tmp_path, found):
    backwards = read(tmp_path, dict(reversed(archives.micebone()[0].items())))
    assert all(np.array_equal(found[part], backwards[part]) for part in found)
    assert len(set(found["fold"][:20])) == 5
    assert found["ids"].tolist() != sorted(found["ids"])


def test_one_coloured_image_makes_all_of_them_colour(tmp_path, found):
    coloured = np.zeros((archives.SIDE, archives.SIDE, 3), np.uint8)
    coloured[3, 4] = [1, 2, 3]
    made = read(tmp_path, **{image(30): archives.png(coloured)})
    row = next(i for i, name in enumerate(found["ids"]) if "#0030_" in name)
    assert made["images"].shape == (*found["images"].shape, 3)
    assert np.array_equal(made["images"][row], coloured)
    others = np.arange(archives.N) != row
    assert np.array_equal(made["images"][others], np.repeat(found["images"][others][..., None], 3, axis=3))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_other_codings_of_grey_are_grey_too(tmp_path, mode):
    pixels = np.full((archives.SIDE, archives.SIDE), 255, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    made = read(tmp_path, **{image(30): file.getvalue()})
    assert made["images"].ndim == 3
    assert (made["images"] == 255).all(axis=(1, 2)).sum() == 1


def test_classes_are_the_labels_that_occur_unless_they_are_known(tmp_path):
    def rename(sets):
        for annotation in sets[0]["annotations"]:
            annotation["class_label"] = "a new one"

    changed = {NOTES: notes(rename)}
    assert read(tmp_path, class_names=None, **changed)["class_names"].tolist() == ["a new one", "g", "nr", "ug"]
    with pytest.raises(InputError, match=r"'a new one'.*, expected an image of the archive and g, nr, ug or null"):
        read(tmp_path, **changed)


def test_every_annotation_set_has_a_column_and_one_more_for_an_image_that_it_rates_twice(tmp_path, found):
    def again(sets):
        sets[2]["annotations"].append(sets[2]["annotations"][0] | {"class_label": "ug"})
        sets[3]["annotations"].append({"image_path": "MiceBone/fold1/gone.png", "class_label": None})
        sets[80].update(annotations=[])

    made, lost = read(tmp_path, **{NOTES: notes(again)}), (found["ratings"][:, 80] >= 0).sum()
    assert made["ratings"].shape[1] == 82
    assert (made["ratings"][:, 3] >= 0).sum() == 1
    assert (made["ratings"][:, 81] == -1).all()  # a set without any vote keeps its column
    assert made["counts"].sum() == found["counts"].sum() + 1 - lost


@pytest.mark.parametrize(("root", "folder"), [("", "MiceBone"), ("a/b/", "MiceBone"), ("", "Mice#Bone")])
def test_the_folder_of_the_set_may_lie_deeper_and_other_files_are_passed_over(tmp_path, root, folder):
    good = archives.micebone()[0].items()
    members = {f"{root}{member.replace('MiceBone', folder)}": content for member, content in good}
    others = (
        "__MACOSX/._a.png",
        f"{root}{folder}/readme.txt",
        f"{root}{folder}/fold1/Thumbs.db",
        f"{folder}/fold6/a.png",
    )
    assert len(read(tmp_path, members | dict.fromkeys(others, b"x"))["ids"]) == archives.N


# Written and read


def test_what_is_exported_has_the_words_of_the_format_and_is_read_again(tmp_path):
    data = shapes.synthetic(60, 24, 0)
    folder = dcic.export(data, tmp_path, n_votes=9, seed=4)
    annotations = json.loads((folder / "annotations.json").read_text())
    words = ["name", "dataset_name", "user_mail", "annotation_time", "annotations"]
    assert [list(one) for one in annotations] == [words] * 9
    entries = {tuple(entry) for one in annotations for entry in one["annotations"]}
    assert entries == {("image_path", "created_at", "class_label")}
    members = {str(f.relative_to(tmp_path)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    made = read(tmp_path, members, data.class_names, "Synthetic")
    order = [data.ids.index(image_id) for image_id in made["ids"]]
    assert sorted(order) == list(range(60))
    assert np.array_equal(made["images"], data.images[order].transpose(0, 2, 3, 1))
    assert np.array_equal(made["ratings"], votes.simulate(data.truth, 9, 4)[order])
    assert made["class_names"].tolist() == list(data.class_names)
    assert np.bincount(made["fold"]).tolist() == [0, 12, 12, 12, 12, 12]
    with pytest.raises(InputError, match="exists already"):
        dcic.export(data, tmp_path, n_votes=9, seed=4)


# What is broken


def entry(number, **changes):
    """Return a change of the first annotation of a set."""
    return notes(lambda sets: sets[number]["annotations"][0].update(changes))


def bad_checksum(content):
    """Return a PNG whose last stretch of pixels does not fit its checksum."""
    place = content.rindex(b"IDAT") + 20
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


GOOD = archives.micebone()[0]
TWIN = "MiceBone/fold5/" + image(3).split("/")[2].replace("-[0.5, 0.5]", "")
NULL = {"image_path": "x/new.png", "class_label": None}
BROKEN = {  # members that are changed, and what is said of it
    "a truncated image": ({image(3): GOOD[image(3)][:500]}, f"{image(3)}: the image cannot be read: "),
    "a changed byte": ({image(3): bad_checksum(GOOD[image(3)])}, "the image cannot be read: "),
    "a jpeg": ({image(3): b"\xff\xd8\xff\xe0" + bytes(500)}, f"{image(3)}: the image cannot be read: cannot identify"),
    "another size": ({image(3): picture(size=(40, 40))}, "40 x 40 pixels, expected 32 x 32"),
    "no square": ({image(3): picture(size=(32, 40))}, "32 x 40 pixels, expected 32 x 32"),
    "16 bits": ({image(3): picture("I;16")}, "its pixels are of mode I;16, expected 8 bits"),
    "no votes": (
        {"MiceBone/fold1/g#new.png": picture()},
        "MiceBone/fold1/g#new.png: the image has no votes in MiceBone",
    ),
    "nulls only": (
        {"MiceBone/fold1/new.png": picture(), NOTES: notes(lambda sets: sets[0]["annotations"].append(NULL))},
        "MiceBone/fold1/new.png: the image has no votes",
    ),
    "votes without an image": ({image(3): None}, f"is ('{image(3)}', "),
    "an id in two folds": ({TWIN: picture()}, f"is that of {image(3)}, too"),
    "an unknown class": ({NOTES: entry(4, class_label="x")}, "'x'), expected an image of the archive and g, nr, ug or"),
    "a class that is a number": ({NOTES: entry(4, class_label=1)}, "[4].annotations[0] is {'image_path'"),
    "a class without a name": ({NOTES: entry(4, class_label="")}, "[4].annotations[0] is ("),
    "a path that is a list": ({NOTES: entry(4, image_path=[])}, "[4].annotations[0] is {'image_path': []"),
    "a text for an annotation": (
        {NOTES: notes(lambda s: s[4]["annotations"].append("x"))},
        "is 'x', expected an image",
    ),
    "no annotations in a set": ({NOTES: notes(lambda s: s[4].update(annotations=1))}, "is no list of annotation sets"),
    "a set that is a number": (
        {NOTES: notes(lambda s: s.append(7))},
        "is no list of annotation sets in JSON: TypeError",
    ),
    "no list of sets": ({NOTES: b'{"a": 1}'}, "is no list of annotation sets in JSON: TypeError"),
    "no sets": ({NOTES: b"[]"}, "3 classes and 0 raters, expected 2 to 127 and 1 to 10000"),
    "JSON cut short": ({NOTES: GOOD[NOTES][:5000]}, f"{NOTES} is no list of annotation sets in JSON: JSONDecodeError"),
    "another encoding": ({NOTES: '["ä"]'.encode("latin-1")}, "sets in JSON: UnicodeDecodeError"),
    "endless brackets": ({NOTES: b"[" * 200_000}, "is no list of annotation sets in JSON: RecursionError"),
    "no annotations": ({NOTES: None}, "it holds no annotations.json, expected MiceBone/annotations"),
    "another set": ({NOTES: None, "Pig/annotations.json": b"[]"}, "it holds Pig/annotations.json, expected MiceBone/"),
    "two tables": ({f"more/{NOTES}": b"[]"}, "it holds MiceBone/annotations.json, more/MiceBone/annotations.json, "),
    "no image": ({**dict.fromkeys(GOOD), NOTES: GOOD[NOTES]}, "[0].annotations[0] is ('"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_archive_is_refused_with_the_place_of_its_fault(tmp_path, changes, message):
    with pytest.raises(InputError) as raised:
        read(tmp_path, **changes)
    assert message in str(raised.value)


def test_more_than_memory_and_an_array_should_hold_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="1025 x 1025 pixels, expected 16 x 16 to 1024 x 1024"):
        read(tmp_path, dict.fromkeys(GOOD, picture(size=(1025, 1025))) | {NOTES: GOOD[NOTES]})
    asked = []
    monkeypatch.setattr(dcic.memory, "require", lambda n_bytes, what: asked.append((n_bytes, what)))
    read(tmp_path)
    assert asked == [(2 * 3 * archives.N * archives.SIDE**2, "60 images of 32 x 32 pixels")]
    monkeypatch.setattr(dcic, "MOST_RATERS", 80)
    with pytest.raises(InputError, match="3 classes and 81 raters, expected 2 to 127 and 1 to 80"):
        read(tmp_path)
