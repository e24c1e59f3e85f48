import numpy as np
import pytest

from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data import images, shapes


def test_a_split_uses_every_image_once_in_the_papers_proportions_and_is_its_number_s():
    split, again, other = (images.random_split(1000, number) for number in (0, 0, 1))
    assert [len(part) for part in split] == [600, 200, 200]
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(1000))
    assert all(np.array_equal(a, b) for a, b in zip(split, again, strict=True))
    assert not np.array_equal(split.test, other.test)
    assert min(len(part) for part in images.random_split(5, 0)) == 1
    with pytest.raises(InputError, match="4 images"):
        images.random_split(4, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"images": np.zeros((3, 3, 8, 8), np.float32)}, "float32", id="images are not bytes"),
        pytest.param({"images": np.zeros((3, 8, 8, 3), np.uint8)}, "expected uint8", id="channels last"),
        pytest.param({"truth": np.full((3, 6), 0.2)}, "not a distribution in row 0", id="truth sums to 1.2"),
        pytest.param({"truth": np.full((2, 6), 1 / 6)}, r"truth is \(2, 6\)", id="a row of truth is missing"),
        pytest.param({"votes": np.ones((3, 5), int)}, r"votes is \(3, 5\)", id="votes of five classes"),
        pytest.param({"fold": np.ones(4, int)}, r"fold is \(4,\)", id="a fold too many"),
    ],
)
def test_a_set_that_breaks_the_contract_is_refused(change, message):
    good = shapes.synthetic(3, 8, 0)
    values = {name: getattr(good, name) for name in ("name", "images", "truth", "class_names", "ids")}
    with pytest.raises(InputError, match=message):
        images.LabelledImages(**(values | change))


def test_a_smaller_share_of_training_images_is_part_of_a_larger_one_and_the_rest_stays():
    split = images.random_split(1000, 0)
    thinned = [images.thin(split, share, seed=0) for share in (0.1, 0.33, 1.0)]
    assert [len(part.train) for part in thinned] == [60, 198, 600]
    assert thinned[0].train.max() > 800  # of the whole set, and not of its beginning
    assert set(thinned[0].train) < set(thinned[1].train) < set(thinned[2].train)
    assert np.array_equal(thinned[2].train, split.train)
    assert all(np.array_equal(part.validation, split.validation) for part in thinned)
    assert all(np.array_equal(part.test, split.test) for part in thinned)
    assert not np.array_equal(images.thin(split, 0.1, seed=1).train, thinned[0].train)


@pytest.mark.parametrize(
    ("number", "validation", "test", "training"),
    [(1, 2, 3, {1, 4, 5}), (2, 3, 4, {1, 2, 5}), (3, 4, 5, {1, 2, 3}), (4, 5, 1, {2, 3, 4}), (5, 1, 2, {3, 4, 5})],
)
def test_a_slice_is_made_of_whole_folds_by_the_rule(number, validation, test, training):
    fold = np.random.default_rng(0).permutation(np.arange(50) % 5 + 1)
    split = images.slice_split(fold, number)
    assert [set(fold[part]) for part in split] == [training, {validation}, {test}]
    assert sorted(np.concatenate(split)) == list(range(50))
    assert all((np.diff(part) > 0).all() for part in split)


@pytest.mark.parametrize(("fold", "number"), [([1, 2, 6], 1), ([0, 1, 2], 1), ([1, 2, 3], -1)], ids=str)
def test_a_slice_of_other_folds_is_refused(fold, number):
    with pytest.raises(InputError, match="expected at least 0 and folds 1 to 5"):
        images.slice_split(np.array(fold), number)
