import inspect
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from beyond_hard_labels.base import paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import report, status
from beyond_hard_labels.runs import ensure, execute, fresh, store, study
from conftest import TINY, remade


@pytest.fixture
def spec():
    return study.plan("smoke", **TINY).spec("soft", 0)


def test_a_run_is_trained_once_and_then_found(spec):
    first, trained = ensure.find_or_train(spec)
    again, trained_again = ensure.find_or_train(spec)
    assert (trained, trained_again) == (True, False)
    assert again.metrics == first.metrics
    assert {p.name for p in first.folder.iterdir()} == {
        *("spec.json", "manifest.json", "predictions.npz", "features.npz", "curves.npz", "weights.safetensors")
    }


def test_nothing_is_left_beside_a_finished_run(spec):
    execute.execute(spec)
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
        assert "brought here" in report.badge(study.plan("smoke", **TINY), [ensure.find(on_gpu)])


@pytest.mark.parametrize("name", [*store.FILES, "manifest.json"])
def test_a_run_with_a_missing_file_is_refused_with_its_name(spec, name):
    run, _ = ensure.find_or_train(spec)
    (run.folder / name).unlink()
    with pytest.raises(InputError, match=rf"{spec.key} is not whole, {name} not found"):
        store.load(run.folder)


def test_a_run_that_is_not_there_is_said_to_be_missing_and_not_broken(spec):
    with pytest.raises(InputError, match=rf"there is no run in .*{spec.key}; 'bhl book' or"):
        store.by_name(spec.key)


def test_the_manifest_knows_every_file_as_it_was_stored(spec):
    run, _ = ensure.find_or_train(spec)
    assert store.find(spec).folder == run.folder
    with (run.folder / "curves.npz").open("ab") as file:
        file.write(b" ")
    with pytest.raises(store.Damaged, match=r"curves\.npz not as it was stored"):
        store.load(run.folder)


def test_comments_docstrings_and_blank_lines_are_no_code():
    plain = "def f(x):\n    return x  # why\n"
    dressed = '"""Module."""\n\n\ndef f(x):\n    """Say."""\n    # more\n    return x\n'
    assert fresh.code_without_comments(plain) == fresh.code_without_comments(dressed)
    assert fresh.code_without_comments(plain) != fresh.code_without_comments(plain.replace("return x", "return -x"))


def test_a_hash_sign_in_a_string_is_code():
    assert fresh.code_without_comments('x = "#1"\n') == 'x = "#1"'


def test_blank_lines_and_what_looks_like_a_comment_inside_a_string_are_code():
    source = 'x = """a\n\n# b  \n"""\ny = f"""{x}\n\nc"""\n'
    assert fresh.code_without_comments(source) == source.rstrip("\n")


def test_a_comment_between_the_parts_of_a_string_is_no_code():
    plain, dressed = 'x = (\n    "a"\n    "b"\n)\n', 'x = (\n    "a"  # one\n    # two\n\n    "b"\n)\n'
    assert fresh.code_without_comments(plain) == fresh.code_without_comments(dressed)


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


def test_metrics_are_computed_from_the_stored_predictions(spec):
    run, _ = ensure.find_or_train(spec)
    with np.load(run.folder / "predictions.npz") as file:
        content = dict(file)
    content["test_logits"] = -content["test_logits"]
    np.savez_compressed(run.folder / "predictions.npz", **content)
    remade(run.folder)
    assert store.load(run.folder).metrics != run.metrics


def test_a_pickled_array_is_not_loaded(spec):
    run, _ = ensure.find_or_train(spec)
    np.savez(run.folder / "features.npz", test=np.array([{"not": "numbers"}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        _ = run.features


def test_a_spec_with_other_fields_is_named(spec):
    run, _ = ensure.find_or_train(spec)
    content = json.loads((run.folder / "spec.json").read_text())
    (run.folder / "spec.json").write_text(json.dumps({**content, "colour": 1}))
    remade(run.folder)
    with pytest.raises(InputError, match=r"spec\.json: .*colour"):
        store.load(run.folder)


def test_the_modules_that_code_uses_are_found_through_imports():
    assert fresh.modules_used("from beyond_hard_labels.learn import tsne") == {"learn.tsne", "base.errors"}
    assert fresh.modules_used("from beyond_hard_labels.data import shapes\nimport numpy") == {
        *("data.shapes", "data.images", "base.rng", "base.errors")
    }
    through_runs = fresh.modules_used("from beyond_hard_labels.runs.ensure import ensure")
    assert {"runs.study", "runs.store", "learn.train", "learn.augment", "data.votes"} <= through_runs
    assert not {name for name in through_runs if name.startswith(("book", "cli"))}


def test_the_code_of_a_run_is_what_trains_it_and_no_measure_of_it():
    modules = fresh.training_modules()
    assert {"runs.execute", "runs.inputs", "learn.train", "learn.augment", "learn.models"} <= set(modules)
    assert {"data.images", "data.votes", "data.shapes", "base.rng"} <= set(modules)
    assert not {"learn.metrics", "learn.significance", "learn.tsne", "data.fetch", "data.dcic"} & set(modules)
