import inspect
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from beyond_hard_labels.base import files, paths, process, reads
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import about, status
from beyond_hard_labels.data import sets
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import checkpoints, ensure, execute, fresh, inputs, publish, store, study
from beyond_hard_labels.runs.spec import RunSpec
from conftest import TINY, remade


@pytest.fixture
def spec():
    return study.plan("smoke", **TINY).spec("soft", 0)


def test_a_run_is_trained_once_then_found_and_nothing_is_left_beside_it(spec):
    before = fresh.provenance(spec)
    first, trained = ensure.find_or_train(spec)
    again, trained_again = ensure.find_or_train(spec)
    assert (trained, trained_again) == (True, False)
    assert again.metrics == first.metrics
    assert {p.name for p in first.folder.iterdir()} == {*store.FILES, "manifest.json"}
    assert {part: first.manifest[part] for part in before} == before
    assert [p.name for p in (paths.build_folder() / "runs").iterdir()] == [spec.key]
    assert not list((paths.build_folder() / "progress").iterdir())


def test_a_failed_save_leaves_nothing(spec, monkeypatch):
    monkeypatch.setattr(store, "machine", lambda device: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        execute.execute(spec)
    assert not list((paths.build_folder() / "runs").iterdir())


def test_every_field_of_a_spec_is_part_of_its_key(spec):
    changes = {"split": 1, "labels": "hard", "epochs": 3, "augment_zoom": False, "threads": 2, "learning_rate": 0.2}
    keys = {replace(spec, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {spec.key}) == len(changes) + 1


def test_a_weights_file_counts_by_its_checksum_and_not_by_its_place(spec):
    here, there = (replace(spec, weights=path, weights_sha256="ab" * 32) for path in ("/a/w", "/b/w"))
    assert here.key == there.key != replace(here, weights_sha256="cd" * 32).key


@pytest.mark.parametrize("part", ["data", "code", "versions"])
def test_a_run_whose_code_data_or_versions_changed_is_trained_again(spec, part):
    execute.execute(spec)
    remade(paths.build_folder() / "runs" / spec.key, **{part: "another"})
    assert store.find(spec) is None
    assert ensure.find_or_train(spec)[1]
    assert store.find(spec) is not None


@pytest.mark.parametrize("part", ["code", "versions"])
@pytest.mark.parametrize("gpu", [True, False], ids=["a GPU is here", "no GPU is here"])
def test_a_run_from_a_gpu_counts_with_other_versions_only_where_no_gpu_is_but_never_with_other_code(
    spec, gpu, part, monkeypatch
):
    run, on_gpu = execute.execute(spec), replace(spec, device="cuda")
    (run.folder / "spec.json").write_text(json.dumps(asdict(on_gpu)))
    made = run.manifest[part]
    remade(run.folder, **{part: made | {min(made): "another"}})
    run.folder.rename(run.folder.with_name(on_gpu.key))
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    counts = part == "versions" and not gpu
    (item,) = (item for item in status.items() if item.kind == "run")
    assert (ensure.find(on_gpu) is not None, item.state == "fresh") == (counts, counts)
    if counts:
        assert "another machine, with a GPU" in about.trained([ensure.find(on_gpu)])


def test_a_run_with_a_missing_file_is_refused_with_its_name_but_for_its_weights(spec):
    with pytest.raises(InputError, match=rf"there is no run in .*{spec.key}; 'bhl book' or"):
        store.by_name(spec.key)
    folder = execute.execute(spec).folder
    for name in (*store.FILES, "manifest.json"):
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        if name == store.WEIGHTS:
            assert store.find(spec) is not None
        else:
            with pytest.raises(store.Damaged, match=rf"{spec.key} is not whole, {name} not found"):
                store.load(folder)
        path.write_bytes(content)
    with (folder / "curves.npz").open("ab") as file:
        file.write(b" ")
    with pytest.raises(store.Damaged, match=r"curves\.npz not as it was stored"):
        store.load(folder)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ('"""Say."""\n\n\ndef f(x):\n    """Say."""\n    # more\n    return x  # why\n', "def f(x):\n    return x"),
        ('x = "#1"\n', 'x = "#1"'),
        ('x = """a\n\n# b  \n"""\ny = f"""{x}\n\nc"""\n', 'x = """a\n\n# b  \n"""\ny = f"""{x}\n\nc"""'),
        ('x = (\n    "a"  # one\n    # two\n\n    "b"\n)\n', 'x = (\n    "a"\n    "b"\n)'),
    ],
    ids=["comments, docstrings and blank lines are none", "a hash sign in a string", "lines of a string", "its parts"],
)
def test_what_is_code(source, code):
    assert fresh.code_without_comments(source) == code


def other_pythons():
    """Interpreters of other versions on this machine, by version."""
    places = [Path(p) for p in os.environ["PATH"].split(":")]
    places += [p / "bin" for p in (Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions").glob("*")]
    found = {}
    for path in (place / f"python3.{minor}" for place in places for minor in range(11, 16)):
        if path.is_file():
            asked = subprocess.run([path, "-c", "import sys; print(sys.version[:4])"], capture_output=True, text=True)
            found[asked.stdout.strip()] = path  # a launcher that has no such version prints nothing
    return {version: path for version, path in found.items() if version not in ("", sys.version[:4])}


def test_fingerprints_do_not_depend_on_the_version_of_python():
    if not (others := other_pythons()):
        pytest.skip("there is no other Python from 3.11 on this machine")
    paths = sorted(str(path) for path in Path(store.__file__).parent.glob("*.py"))
    program = "import ast, functools, hashlib, io, json, tokenize\nfrom pathlib import Path\n"
    program += inspect.getsource(fresh.code_without_comments)
    program += f"print(json.dumps([code_without_comments(Path(p).read_text('utf-8')) for p in {paths}]))"
    here = [fresh.code_without_comments(Path(path).read_text("utf-8")) for path in paths]
    for version, python in others.items():
        there = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout
        assert json.loads(there) == here, version


def test_what_changed_is_said_by_name_and_version_and_what_has_not_is_not():
    made = {"data": {"data file": "a"}, "code": {"x.py": "1", "y.py": "1"}, "versions": {"torch": "2.13.0"}}
    assert fresh.changes(made | {"seconds": 3}, made) == []
    here = {
        "data": {"data file": "b"},
        "code": {"x.py": "1", "y.py": "2", "z.py": "1"},
        "versions": {"torch": "2.14.1"},
    }
    found = fresh.changes(made, here)
    assert [(change.kind, change.name) for change in found] == [
        *(("data", "data file"), ("code", "y.py"), ("code", "z.py"), ("version", "torch"))
    ]
    assert fresh.told(found) == "data file changed; y.py changed; z.py is new; torch 2.13.0 → 2.14.1"
    assert fresh.told(fresh.changes(here, made)[1:3]) == "y.py changed; z.py is no longer part of it"
    (away,) = fresh.changes(made, made | {"data": {"data file": None}})
    assert (away.kind, fresh.told([away])) == ("away", "data file is not here to be compared")
    (unreadable,) = fresh.changes({"code": "ab12"}, {"code": {"x.py": "1"}})
    assert (unreadable.kind, fresh.told([unreadable])) == ("record", "its record of code is of another form")


def test_a_pickled_array_is_not_loaded_and_a_spec_with_other_fields_is_named(spec):
    run = execute.execute(spec)
    np.savez(run.folder / "features.npz", test=np.array([{"not": "numbers"}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        _ = run.features
    content = json.loads((run.folder / "spec.json").read_text())
    (run.folder / "spec.json").write_text(json.dumps({**content, "colour": 1}))
    remade(run.folder)
    with pytest.raises(InputError, match=r"spec\.json: .*colour"):
        store.load(run.folder)


def test_the_modules_that_code_uses_are_found_through_imports():
    assert fresh.modules_used("from beyond_hard_labels.learn import tsne") == {"learn.tsne", "base.errors"}
    assert fresh.modules_used("from beyond_hard_labels.data import shapes\nimport numpy") == {
        *("data.shapes", "data.images", "base.rng", "base.memory", "base.errors")
    }
    through_runs = fresh.modules_used("from beyond_hard_labels.runs.ensure import ensure")
    assert {"runs.study", "runs.store", "learn.train", "learn.augment", "data.votes"} <= through_runs
    assert not {name for name in through_runs if name.startswith(("book", "cli"))}


def test_the_code_of_a_run_is_what_trains_it_and_no_measure_of_it():
    modules = fresh.training_modules()
    assert {"runs.execute", "runs.inputs", "learn.train", "learn.augment", "learn.models"} <= set(modules)
    assert {"data.images", "data.votes", "data.shapes", "base.rng"} <= set(modules)
    assert not {"learn.metrics", "learn.significance", "learn.tsne", "data.fetch", "data.dcic"} & set(modules)


# What a run was made of is taken before it is trained


def put_set(seed=0):
    """Write a small set of images and votes into the data cache, in place of one that is there."""
    rng = np.random.default_rng(seed)
    path = sets.folders()[1] / "other.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    images, counts = rng.integers(0, 256, (60, 16, 16), dtype=np.uint8), rng.integers(1, 9, (60, 3))
    np.savez(path, images=images, counts=counts, class_names=np.array(["a", "b", "c"]))


@pytest.fixture
def of_set():
    """A run on that set."""
    put_set()
    return study.plan("smoke", dataset="other", image_size=16, epochs=2, batch_size=16).spec("soft", 0)


def after_an_epoch(monkeypatch, do):
    def show(_, epoch):
        if epoch == 1:
            do()

    monkeypatch.setattr(execute, "_show_progress", show)
    monkeypatch.setattr(execute, "CHECKPOINT_SECONDS", 0)


def edited(monkeypatch, module, code="\nEDITED = True\n"):
    """Let a module read as if it had been edited."""
    real = fresh._source
    monkeypatch.setattr(fresh, "_source", lambda name: real(name) + (code if name == module else ""))


def test_a_set_that_is_replaced_during_training_is_not_what_a_stored_run_was_made_of(of_set, monkeypatch):
    after_an_epoch(monkeypatch, lambda: put_set(seed=1))
    with pytest.raises(execute.Moved, match=f"{of_set.key} is not stored.* data file changed"):
        execute.execute(of_set)
    assert store.find(of_set) is None
    assert list(checkpoints.folder_of(of_set).iterdir())
    assert checkpoints.latest(of_set) == (None, 0.0)  # of the set that is no longer there


def test_a_module_that_is_edited_during_training_is_not_what_a_stored_run_was_made_of(spec, monkeypatch):
    with monkeypatch.context() as patch:
        after_an_epoch(patch, lambda: edited(patch, "learn.augment"))
        with pytest.raises(execute.Moved, match=r"is not stored.* learn\.augment changed"):
            execute.execute(spec)
    assert store.find(spec) is None
    assert checkpoints.latest(spec)[0].epoch == 1  # the module is as it was, and so is what was trained


def test_a_process_that_began_with_other_code_trains_nothing(spec, monkeypatch):
    edited(monkeypatch, "learn.train")
    with pytest.raises(execute.Moved, match=r"is not trained.* learn.train changed.*restarted kernel"):
        execute.execute(spec)


def test_a_set_that_is_replaced_while_it_is_read_is_not_trained_on(of_set, monkeypatch):
    read = sets.read

    def slowly(*arguments):
        data = read(*arguments)
        put_set(seed=1)
        return data

    inputs._prepare.cache_clear()
    monkeypatch.setattr(sets, "read", slowly)
    with pytest.raises(InputError, match="the file of other changed while it was read"):
        execute.execute(of_set)


# What cannot be trained, or is next to nothing


def test_a_training_that_diverges_leaves_neither_a_run_nor_checkpoints(spec, monkeypatch):
    monkeypatch.setattr(execute, "CHECKPOINT_SECONDS", 0)
    high = replace(spec, learning_rate=1e8, epochs=4)
    with pytest.raises(InputError, match=rf"{high.key} is not stored: .* not finite .*epoch \d.*lower learning_rate"):
        execute.execute(high)
    assert store.find(high) is None
    assert not checkpoints.folder_of(high).exists()


def test_images_that_do_not_fit_into_memory_are_refused_with_what_is_needed_and_free():
    with pytest.raises(
        InputError, match=r"n_images=1000000000 .* need [\d,.]+ GiB of memory, and [\d,.]+ GiB are free"
    ):
        inputs.images_of(study.plan("smoke", n_images=10**9).spec("soft", 0))


def test_a_set_of_five_images_is_trained_on_and_its_empty_classes_are_named(capsys):
    few = study.plan("smoke", **(TINY | {"n_images": 5})).spec("soft", 0)
    ensure.ensure_specs([few], executor=ThreadPoolExecutor(1))
    ensure.ensure_specs([few])
    said = [line for line in capsys.readouterr().err.splitlines() if "has no" in line]
    empty = store.find(few).manifest["empty_classes"]
    assert len(empty["test"]) == 5
    assert [sum(f"no {part} image" in line for line in said) for part in ("test", "training")] == [2, 2]
    assert any(", ".join(empty["test"]) in line for line in said)


# Metrics are computed when they are read


def test_editing_a_metric_makes_no_run_stale_and_editing_the_augmentation_does(spec, monkeypatch):
    execute.execute(spec)
    with monkeypatch.context() as patch:
        edited(patch, "learn.metrics")
        assert store.find(spec) is not None
    edited(monkeypatch, "learn.augment")
    assert store.find(spec) is None


def test_scores_and_history_are_computed_when_they_are_read_and_published_as_they_are(spec, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "published_folder", lambda: tmp_path / "results")
    run = execute.execute(spec)
    published = publish.publish_run(run, None, {})
    assert list(run.history) == ["epoch", "train_loss", "loss", "macro_accuracy", "kl"]
    assert run.history["epoch"].tolist() == [1, 2]
    last = metrics.softmax(run.stored("validation_logits"))
    assert run.validation(2)["kl"] == pytest.approx(metrics.kl(run.stored("validation_truth"), last), rel=1e-3)
    assert published.history.equals(run.history)
    monkeypatch.setitem(metrics.METRICS, "worst", metrics.Metric(lambda t, p: float(np.abs(t - p).max()), "worst", -1))
    without_truth = replace(published, truth=None)
    assert run.metrics["worst"] == np.abs(run.truth - run.predicted).max()
    assert np.isnan(without_truth.metrics["worst"])
    assert without_truth.metrics["kl"] == published.metrics["kl"]
    monkeypatch.setitem(metrics.METRICS, "kl", metrics.Metric(lambda t, p: 7.0, "seven", 0))
    assert store.load(run.folder).history["kl"].tolist() == [7, 7]
    assert store.load(run.folder).metrics["kl"] == 7


# What a notebook read, and what it may train


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """Return what was read so far, by kind and name."""
    monkeypatch.setenv("BHL_READS", str(tmp_path / "reads"))
    return lambda: reads.noted(tmp_path / "reads")


def test_reading_a_run_is_recorded_and_so_is_looking_for_one_that_is_not_there(spec, noted):
    assert store.find(spec) is None
    assert noted() == {("run", spec.key): None}
    run = execute.execute(spec)
    (read,) = noted().items()
    assert read == (("run", spec.key), reads.digest("run", spec.key))
    remade(run.folder, seconds=7)
    assert reads.digest("run", spec.key) == read[1]  # what it says is the same
    np.savez(run.folder / "features.npz", test=run.features + 1)
    assert reads.digest("run", spec.key) is None  # damaged
    remade(run.folder)
    assert reads.digest("run", spec.key) not in (None, read[1])


def test_looking_for_a_set_is_recorded_with_its_checksum(noted):
    with pytest.raises(InputError, match="expected one of synthetic"):
        sets.locate("other")
    assert noted() == {("set", "other"): None}
    put_set()
    assert sets.fingerprint("other") == noted()["set", "other"] == reads.digest("set", "other")


@pytest.mark.parametrize("mode", ["never", "ask"])
def test_where_training_is_forbidden_missing_runs_are_named_and_left_to_who_may_train(
    spec, mode, tmp_path, monkeypatch
):
    other = replace(spec, labels="hard")
    execute.execute(spec)
    monkeypatch.setenv("BHL_TRAIN", mode)
    monkeypatch.setenv("BHL_MISSING", str(tmp_path / "missing"))
    assert len(ensure.ensure_specs([spec])) == 1
    for ask in (lambda: ensure.ensure_specs([spec, other]), lambda: ensure.find_or_train(other)):
        with pytest.raises(ensure.NotTrained, match=rf"1 run\(s\) are missing .* {other.key} \(synthetic, hard labels"):
            ask()
    lines = (tmp_path / "missing").read_text().splitlines() if mode == "ask" else []
    assert [RunSpec(**json.loads(line)) for line in lines] == [other] * (2 if mode == "ask" else 0)


def test_what_is_said_in_a_kernel_leaves_the_cells_output_alone(monkeypatch, capsys):
    ours, others = os.pipe()
    monkeypatch.setattr(process, "in_notebook", lambda: True)
    monkeypatch.setattr(sys.stderr, "_original_stdstream_copy", others, raising=False)
    process.tell("a word")
    os.close(others)
    assert os.read(ours, 100) == b"bhl: a word\n"
    assert capsys.readouterr() == ("", "")


def test_what_is_not_finite_is_null_in_json():
    assert json.loads(files.json_text({"a": [float("nan"), 1.5], "b": {"c": float("inf")}})) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }
