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


def test_the_class_in_front_of_a_name_is_no_label(found):
    prefix = [archives.CLASSES.index(image_id.split("#")[0]) for image_id in found["ids"]]
    assert (found["counts"].argmax(axis=1) == prefix).mean() < 0.6


def test_an_id_ends_at_its_bracket(found):
    assert any("-[" in member for member in archives.micebone()[0])
    assert not any("[" in image_id or "." in image_id for image_id in found["ids"])


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


def test_a_set_that_rates_an_image_twice_gets_a_column_more_and_no_vote_is_lost(tmp_path, found):
    def again(sets):
        sets[2]["annotations"].append(sets[2]["annotations"][0] | {"class_label": "ug"})

    made = read(tmp_path, **{NOTES: notes(again)})
    assert made["ratings"].shape[1] == 82
    assert (made["ratings"][:, 3] >= 0).sum() == 1
    assert made["counts"].sum() == found["counts"].sum() + 1


def test_a_set_without_any_vote_keeps_its_column(tmp_path):
    made = read(tmp_path, **{NOTES: notes(lambda sets: sets[80].update(annotations=[]))})
    assert made["ratings"].shape[1] == 81
    assert (made["ratings"][:, 80] == -1).all()


@pytest.mark.parametrize("root", ["", "data/", "a/b/"])
def test_the_folder_of_the_set_may_lie_deeper_and_other_files_are_passed_over(tmp_path, root):
    members = {f"{root}{member}": content for member, content in archives.micebone()[0].items()}
    extra = {"__MACOSX/._a.png": b"x", f"{root}MiceBone/readme.txt": b"x", f"{root}MiceBone/fold1/Thumbs.db": b"x"}
    assert len(read(tmp_path, members | extra)["ids"]) == archives.N


def test_the_sign_in_the_name_of_a_folder_does_not_count(tmp_path):
    members = {member.replace("MiceBone", "Tree#1"): content for member, content in archives.micebone()[0].items()}
    assert len(read(tmp_path, members, name="Tree1")["ids"]) == archives.N


# Written and read


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    data = shapes.synthetic(60, 24, 0)
    folder = dcic.export(data, tmp_path_factory.mktemp("export"), n_votes=9, seed=4)
    return data, folder


def test_what_is_exported_is_read_again(exported, tmp_path):
    data, folder = exported
    members = {str(f.relative_to(folder.parent)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    made = read(tmp_path, members, data.class_names, "Synthetic")
    order = [data.ids.index(image_id) for image_id in made["ids"]]
    assert sorted(order) == list(range(60))
    assert np.array_equal(made["images"], data.images[order].transpose(0, 2, 3, 1))
    ratings = votes.simulate(data.truth, 9, 4)
    assert np.array_equal(made["ratings"], ratings[order])
    assert np.array_equal(made["counts"], votes.count(ratings, 6)[order])
    assert made["class_names"].tolist() == list(data.class_names)
    folds = [int((next(folder.glob(f"fold*/{image_id}.png"))).parent.name[-1]) for image_id in made["ids"]]
    assert made["fold"].tolist() == folds


def test_what_is_exported_has_the_words_of_the_format(exported):
    _, folder = exported
    found = json.loads((folder / "annotations.json").read_text())
    assert [list(annotations) for annotations in found] == [
        ["name", "dataset_name", "user_mail", "annotation_time", "annotations"]
    ] * 9
    entries = [entry for annotations in found for entry in annotations["annotations"]]
    assert {tuple(entry) for entry in entries} == {("image_path", "created_at", "class_label")}


# What is broken


def entry(number, **changes):
    """Return a change of the first annotation of a set."""
    return notes(lambda sets: sets[number]["annotations"][0].update(changes))


def whole(number, **changes):
    return notes(lambda sets: sets[number].update(changes))


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
    "a text for an image": ({image(3): b"text"}, "the image cannot be read: cannot identify"),
    "a jpeg": ({image(3): b"\xff\xd8\xff\xe0" + bytes(500)}, f"{image(3)}: the image cannot be read: cannot identify"),
    "another size": ({image(3): picture(size=(40, 40))}, "40 x 40 pixels, expected 32 x 32"),
    "no square": ({image(3): picture(size=(32, 40))}, "32 x 40 pixels, expected a square"),
    "too large": ({image(3): picture(size=(1025, 1025))}, "expected a square of 16 to 1024"),
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
    "no fold": ({"MiceBone/fold6/a.png": picture()}, "MiceBone/fold6/a.png: the image is in none of the folders fold1"),
    "an unknown class": ({NOTES: entry(4, class_label="x")}, "'x'), expected an image of the archive and g, nr, ug or"),
    "a class that is a number": ({NOTES: entry(4, class_label=1)}, "[4].annotations[0] is {'image_path'"),
    "a class without a name": ({NOTES: entry(4, class_label="")}, "[4].annotations[0] is ("),
    "a path that is a list": ({NOTES: entry(4, image_path=[])}, "[4].annotations[0] is {'image_path': []"),
    "a text for an annotation": (
        {NOTES: notes(lambda sets: sets[4]["annotations"].append("x"))},
        "is 'x', expected an image of the archive",
    ),
    "a mail address": ({NOTES: whole(4, user_mail="a@b.de")}, "[4] is not anonymous, expected INVALID in name and"),
    "a name of a person": ({NOTES: whole(4, name="Ann Other")}, "[4] is not anonymous, expected INVALID"),
    "no annotations in a set": ({NOTES: whole(4, annotations={})}, "[4] is no annotation set, expected an object with"),
    "a set that is a number": ({NOTES: notes(lambda sets: sets.append(7))}, "[81] is no annotation set"),
    "no list of sets": ({NOTES: b'{"a": 1}'}, "is dict, expected a list of annotation sets"),
    "no sets": ({NOTES: b"[]"}, "is list, expected a list of annotation sets, one at least"),
    "malformed JSON": ({NOTES: b'[{"name": 1, }]'}, "MiceBone.zip: MiceBone/annotations.json cannot be read: "),
    "JSON cut short": ({NOTES: GOOD[NOTES][:5000]}, "annotations.json cannot be read: "),
    "another encoding": ({NOTES: '["ä"]'.encode("latin-1")}, "annotations.json cannot be read: 'utf-8' codec"),
    "endless brackets": ({NOTES: b"[" * 200_000}, "annotations.json cannot be read: "),
    "no annotations": ({NOTES: None}, "MiceBone.zip: it holds no annotations.json, expected MiceBone/annotations"),
    "two tables": ({f"more/{NOTES}": b"[]"}, "it holds MiceBone/annotations.json, more/MiceBone/annotations.json, "),
    "no image": ({**dict.fromkeys(GOOD), NOTES: whole(0)}, "MiceBone: there is no image in fold1 to fold5"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_archive_is_refused_with_the_place_of_its_fault(tmp_path, changes, message):
    with pytest.raises(InputError) as raised:
        read(tmp_path, **changes)
    assert message in str(raised.value)
    assert str(raised.value).startswith("MiceBone.zip")


def test_the_name_of_a_person_is_not_repeated(tmp_path):
    with pytest.raises(InputError) as raised:
        read(tmp_path, **{NOTES: whole(4, name="Ann Other", user_mail="ann@other.org")})
    assert "Ann" not in str(raised.value)
    assert "ann@" not in str(raised.value)


def test_another_set_is_not_taken_for_the_one_that_was_asked_for(tmp_path):
    members = {member.replace("MiceBone", "Pig"): content for member, content in GOOD.items()}
    with pytest.raises(InputError, match=r"holds Pig/annotations.json, expected MiceBone/annotations.json"):
        read(tmp_path, members)


def test_more_raters_than_an_array_should_have_columns_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dcic, "MOST_RATERS", 80)
    with pytest.raises(InputError, match="3 classes and 81 raters, expected 2 to 127 and 1 to 80"):
        read(tmp_path)


def test_more_pixels_than_memory_should_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dcic, "MOST_BYTES", most := 3 * 60 * 32 * 32 - 1)
    with pytest.raises(InputError, match=rf"^MiceBone\.zip: .* bytes in memory, expected at most {most}"):
        read(tmp_path)


def test_a_null_for_an_image_that_is_not_there_is_skipped(tmp_path, found):
    skipped = {"image_path": "MiceBone/fold1/gone.png", "class_label": None}
    made = read(tmp_path, **{NOTES: notes(lambda sets: sets[3]["annotations"].append(skipped))})
    assert np.array_equal(made["ratings"], found["ratings"])
