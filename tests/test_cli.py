import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from beyond_hard_labels import commands
from beyond_hard_labels.cli import main
from conftest import TINY, set_options

VERBS = ("book", "verify", "compare", "run", "study", "unpack", "status", "clean", "data")
SMALL = ("--profile", "smoke", *set_options(**TINY))


def test_help_names_every_command_and_every_exit_code(bhl):
    shown = bhl("--help").stdout
    assert all(word in shown for word in (*VERBS, "75 stopped at the time limit"))


def test_run_trains_then_finds_and_prints_json(bhl):
    command = ("run", "--dataset", "synthetic", "--labels", "soft", "--split", 0, "--json", *SMALL)
    first, second = (json.loads(bhl(*command).stdout) for _ in range(2))
    assert (first.pop("trained"), second.pop("trained")) == (True, False)
    assert first == second
    assert {"macro_accuracy", "kl"} < set(first["metrics"])


@pytest.mark.slow
def test_study_stops_at_its_limit_with_its_own_code_and_goes_on(bhl):
    stopped = bhl("study", "--time-limit", "0s", *SMALL)
    assert stopped.returncode == 75
    assert "2 missing; the same command goes on" in stopped.stderr
    finished = bhl("study", "--workers", 1, *SMALL)
    assert finished.returncode == 0
    assert len(finished.stdout.splitlines()) == 3


def test_describe_prints_what_a_set_holds(bhl):
    described = json.loads(bhl("data", "describe", "synthetic", "--json", *set_options(n_images=200)).stdout)
    assert described["images"] == sum(described["majority"].values()) == 200
    assert described["shape"] == [3, 32, 32]


def test_export_is_read_by_the_rules_of_the_authors_reader(bhl, tmp_path):
    """Reads the folder as DCIC's reader does, by what is published of its format."""
    from beyond_hard_labels.data import shapes

    done = bhl("data", "export", "synthetic", tmp_path, "--votes", 7, *set_options(n_images=50, image_size=24))
    assert done.returncode == 0, done.stderr
    sets_of_annotations = json.loads((tmp_path / "Synthetic" / "annotations.json").read_text())
    assert len(sets_of_annotations) == 7
    votes = {}
    for annotations in sets_of_annotations:
        assert "INVALID" in annotations["name"]
        assert annotations["user_mail"] == "INVALID"
        for entry in annotations["annotations"]:
            assert (tmp_path / entry["image_path"]).is_file()
            image_id = entry["image_path"].split("/")[-1].replace(".png", "").split("-[")[0]
            votes.setdefault(image_id, []).append(entry["class_label"])
    folds = [len(list((tmp_path / "Synthetic" / f"fold{k}").glob("*.png"))) for k in range(1, 6)]
    assert folds == [10] * 5
    data = shapes.synthetic(50, 24, 0)
    assert sorted(votes) == sorted(data.ids)
    for image_id, image, truth in zip(data.ids, data.images, data.truth, strict=True):
        (path,) = (tmp_path / "Synthetic").glob(f"fold*/{image_id}.png")
        assert np.array_equal(np.asarray(Image.open(path)).transpose(2, 0, 1), image)
        possible = {name for name, p in zip(data.class_names, truth, strict=True) if p > 0}
        assert len(votes[image_id]) == 7
        assert set(votes[image_id]) <= possible


def test_export_never_overwrites(bhl, tmp_path):
    (tmp_path / "Synthetic").mkdir()
    refused = bhl("data", "export", "synthetic", tmp_path, *set_options(n_images=10, image_size=16))
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    assert not list((tmp_path / "Synthetic").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["study", "--set", "epocs=3"], "unknown parameter 'epocs' (did you mean 'epochs'?)", id="typo"),
        pytest.param(["study", "--set", "epochs=many"], "'epochs' is 'many', expected an integer", id="text"),
        pytest.param(["study", "--set", "epochs=1.5"], "'epochs' is '1.5', expected an integer", id="fraction"),
        pytest.param(["study", "--set", "epochs"], "'epochs' is not of the form key=value", id="no value"),
        pytest.param(
            ["study", "--set", "class_weights=maybe"], "'maybe', expected true or false", id="neither true nor false"
        ),
        pytest.param(["study", "--profile", "fast"], "expected one of smoke, quick, paper", id="profile"),
        pytest.param(["study", "--time-limit", "soon"], "expected a number with s, m or h", id="time limit"),
        pytest.param(["study", "--workers", "0"], "--workers is 0, expected at least 1", id="no workers"),
        pytest.param(
            ["run", "--dataset", "mnist", "--labels", "soft", "--split", "0"], "'dataset' is 'mnist'", id="data set"
        ),
        pytest.param(
            ["run", "--dataset", "synthetic", "--labels", "fuzzy", "--split", "0"], "'labels' is 'fuzzy'", id="labels"
        ),
        pytest.param(
            ["run", "--dataset", "synthetic", "--labels", "soft", "--split", "-1"], "'split' is -1", id="split"
        ),
        pytest.param(["book", "--only", "06_none"], "there is no notebook '06_none'; expected one of ", id="notebook"),
        pytest.param(["book", "--only", "01_data"], "has no executed copy at", id="only, before any book"),
        pytest.param(["data", "describe", "imagenet"], "'dataset' is 'imagenet'", id="unknown set"),
        pytest.param(["data", "export", "synthetic", "x", "--votes", "0"], "n_votes is 0", id="no votes"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(bhl, arguments, message):
    done = bhl(*arguments, *(set_options(n_images=10) if arguments[0] == "data" else ()))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_json_has_null_for_what_is_no_number(capsys):
    commands.print_json({"kl": float("nan"), "all": [float("inf"), 1.5, {"low": -float("inf")}]})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"kl": None, "all": [None, 1.5, {"low": None}]}


@pytest.fixture
def own_files(tmp_path):
    (tmp_path / "votes.csv").write_text("image,label\na.png,x\n")
    (tmp_path / "images").mkdir()
    return {"votes_csv": str(tmp_path / "votes.csv"), "image_folder": str(tmp_path / "images")}


def test_own_votes_go_to_the_book_beside_its_study(own_files, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "beyond_hard_labels.book.build.make", lambda study, **options: asked.update(options, study=study)
    )
    monkeypatch.chdir(tmp_path)
    relative = {"votes_csv": "votes.csv", "image_folder": "images"}
    assert main(["book", "--profile", "smoke", *set_options(**relative, epochs=2)]) == 0
    assert asked["own"] == own_files  # whole paths: a notebook runs in another folder
    assert asked["study"].changed == {"epochs": 2}
    assert main(["book", "--profile", "smoke"]) == 0
    assert asked["own"] == {}


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("book", {"image_folder": None}, "parameter 'image_folder' is missing, expected votes_csv and image_folder"),
        ("book", {"votes_csv": "no/such.csv"}, "'votes_csv' is 'no/such.csv', expected a path that exists"),
        ("study", {}, "unknown parameter 'votes_csv'"),
    ],
)
def test_own_votes_that_are_not_whole_or_not_of_the_book_are_refused(own_files, command, changes, message, capsys):
    given = {name: path for name, path in (own_files | changes).items() if path}
    assert main([command, *set_options(**given)]) == 2
    assert message in capsys.readouterr().err


def test_importing_the_package_and_asking_for_help_imports_no_torch(bhl):
    program = (
        "import sys, beyond_hard_labels, beyond_hard_labels.cli as cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'papermill', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.slow
def test_finished_runs_are_shown_without_torch(bhl):
    bhl("study", *SMALL)
    program = (
        "import sys\nfrom beyond_hard_labels.analysis.scores import scores\n"
        "from beyond_hard_labels.runs.ensure import ensure\nfrom beyond_hard_labels.runs.study import plan\n"
        f"scores(ensure(plan('smoke', **{TINY!r})))\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
