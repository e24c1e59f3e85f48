import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from beyond_hard_labels import commands
from beyond_hard_labels.cli import main
from conftest import TINY, set_options

SMALL = ("--profile", "smoke", *set_options(**TINY))
RUN = ("run", "--dataset", "synthetic", "--labels", "soft", "--split", "0")


def test_help_names_every_command_and_every_exit_code_and_waits_for_nothing_heavy():
    program = (
        "import sys, beyond_hard_labels, beyond_hard_labels.cli as cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'papermill', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    verbs = ("book", "verify", "compare", "run", "study", "unpack", "status", "clean", "data")
    assert all(word in done.stdout for word in (*verbs, "75 stopped at the time limit"))


def test_run_trains_then_finds_and_prints_json(bhl):
    first, second = (json.loads(bhl(*RUN, "--json", *SMALL).stdout) for _ in range(2))
    assert (first.pop("trained"), second.pop("trained")) == (True, False)
    assert first == second
    assert {"macro_accuracy", "kl"} < set(first["metrics"])


@pytest.mark.slow
def test_study_stops_at_its_limit_goes_on_and_is_shown_without_torch(bhl):
    stopped = bhl("study", "--time-limit", "0s", *SMALL)
    assert (stopped.returncode, stopped.stdout) == (75, "")
    assert "2 missing; the same command goes on" in stopped.stderr
    finished = bhl("study", "--workers", 1, *SMALL)
    assert (finished.returncode, len(finished.stdout.splitlines())) == (0, 3)
    program = (
        "import sys\nfrom beyond_hard_labels.analysis.scores import scores\n"
        "from beyond_hard_labels.runs.ensure import ensure\nfrom beyond_hard_labels.runs.study import plan\n"
        f"scores(ensure(plan('smoke', **{TINY!r})))\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_export_is_read_by_the_rules_of_the_authors_reader_and_never_overwrites(tmp_path, capsys):
    """Reads the folder as DCIC's reader does, by what is published of its format."""
    from beyond_hard_labels.data import shapes

    command = ["data", "export", "synthetic", str(tmp_path), "--votes", "7", *set_options(n_images=50, image_size=24)]
    assert main(command) == 0
    sets_of_annotations = json.loads((tmp_path / "Synthetic" / "annotations.json").read_text())
    assert len(sets_of_annotations) == 7
    votes = {}
    for annotations in sets_of_annotations:
        assert "INVALID" in annotations["name"] and annotations["user_mail"] == "INVALID"
        for entry in annotations["annotations"]:
            assert (tmp_path / entry["image_path"]).is_file()
            image_id = entry["image_path"].split("/")[-1].replace(".png", "").split("-[")[0]
            votes.setdefault(image_id, []).append(entry["class_label"])
    assert [len(list((tmp_path / "Synthetic" / f"fold{k}").glob("*.png"))) for k in range(1, 6)] == [10] * 5
    data = shapes.synthetic(50, 24, 0)
    assert sorted(votes) == sorted(data.ids)
    for image_id, image, truth in zip(data.ids, data.images, data.truth, strict=True):
        (path,) = (tmp_path / "Synthetic").glob(f"fold*/{image_id}.png")
        assert np.array_equal(np.asarray(Image.open(path)).transpose(2, 0, 1), image)
        assert len(votes[image_id]) == 7
        assert set(votes[image_id]) <= {name for name, p in zip(data.class_names, truth, strict=True) if p > 0}
    before = sorted(tmp_path.rglob("*"))
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--set", "epocs=3"], "unknown parameter 'epocs' (did you mean 'epochs'?)"),
        (["study", "--set", "epochs=many"], "'epochs' is 'many', expected an integer"),
        (["study", "--set", "epochs=1.5"], "'epochs' is '1.5', expected an integer"),
        (["study", "--set", "epochs"], "'epochs' is not of the form key=value"),
        (["study", "--set", "class_weights=maybe"], "'maybe', expected true or false"),
        (["study", "--set", "votes_csv=votes.csv"], "unknown parameter 'votes_csv'"),
        (["study", "--profile", "fast"], "expected one of smoke, quick, paper"),
        (["study", "--time-limit", "soon"], "expected a number with s, m or h"),
        (["study", "--workers", "0"], "--workers is 0, expected at least 1"),
        (["run", "--dataset", "mnist", "--labels", "soft", "--split", "0"], "'dataset' is 'mnist'"),
        (["run", "--dataset", "synthetic", "--labels", "fuzzy", "--split", "0"], "'labels' is 'fuzzy'"),
        (["run", "--dataset", "synthetic", "--labels", "soft", "--split", "-1"], "'split' is -1"),
        (["book", "--only", "06_none"], "there is no notebook '06_none'; expected one of "),
        (["book", "--only", "01_data"], "has no executed copy at"),
        (["book", "--set", "votes_csv=/"], "parameter 'image_folder' is missing, expected votes_csv and image_folder"),
        (["book", "--set", "votes_csv=no.csv", "--set", "image_folder=/"], "'votes_csv' is 'no.csv', expected"),
        (["data", "describe", "imagenet"], "'dataset' is 'imagenet'"),
        (["data", "export", "synthetic", "x", "--votes", "0", "--set", "n_images=10"], "n_votes is 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


def test_json_has_null_for_what_is_no_number():
    text = commands.as_json({"kl": float("nan"), "all": [float("inf"), 1.5, {"low": -float("inf")}]})
    assert json.loads(text, parse_constant=pytest.fail) == {"kl": None, "all": [None, 1.5, {"low": None}]}


def test_own_votes_go_to_the_book_beside_its_study(tmp_path, monkeypatch):
    asked = {}
    make = "beyond_hard_labels.book.build.make"
    monkeypatch.setattr(make, lambda study, **options: asked.update(options, study=study))
    (tmp_path / "votes.csv").touch()
    own = {"votes_csv": tmp_path / "votes.csv", "image_folder": tmp_path}
    for given in (own, {}):
        assert main(["book", "--profile", "smoke", *set_options(**given, epochs=2)]) == 0
        assert asked["own"] == given
        assert asked["study"].changed == {"epochs": 2}
