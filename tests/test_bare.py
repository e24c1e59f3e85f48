"""Training needs no more than what a machine for PyTorch has: no notebooks, books, plots, maps or downloads."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT, TINY, set_options

ABSENT = (
    *("papermill", "nbformat", "nbclient", "ipykernel", "IPython", "jupyterlab", "jupyter_book", "sphinx"),
    *("matplotlib", "seaborn", "bokeh", "openTSNE", "pooch", "platformdirs", "distributed", "dask", "pytest"),
)
HOOK = """
import sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent)
"""


@pytest.fixture
def bare(tmp_path):
    """Return a function that runs the command from a checkout, where packages are absent from every process."""

    def run(*arguments, absent=ABSENT):
        (tmp_path / "hook").mkdir()
        (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK.format(absent=absent))
        environment = {name: value for name, value in os.environ.items() if name != "BHL_DATA_DIR"}
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "hook"), str(ROOT / "src")])
        command = [sys.executable, "-m", "beyond_hard_labels", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("absent", "code", "said"),
    [
        pytest.param(ABSENT, 0, "packed 2 run(s)", id="what only the book needs"),
        pytest.param(("safetensors",), 2, "the package safetensors is not installed", id="what stores weights"),
    ],
)
def test_a_study_trains_and_is_packed_without_what_is_not_needed_and_says_what_is(bare, absent, code, said):
    done = bare("study", "--profile", "smoke", *set_options(**TINY), "--pack", "carried", absent=absent)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


def test_the_hook_hides_what_it_should(bare):
    refused = bare("data", "describe", "synthetic", "--profile", "smoke", absent=("beyond_hard_labels",))
    assert "No module named 'beyond_hard_labels'" in refused.stderr
