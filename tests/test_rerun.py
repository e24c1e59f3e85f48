"""The pages for re-runners, as written: what they tell a reader to type is typed, and shows what they show."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT

BIN = Path(sys.executable).parent
YOUR_VOTES = ROOT / "notebooks" / "your_votes.ipynb"


def console(text):
    """The commands of a text's console blocks, in order, each with the output that the text shows."""
    steps = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            elif line.startswith(">") and not steps[-1][1]:
                steps[-1] = (f"{steps[-1][0]}\n{line[1:]}", [])
            else:
                steps[-1][1].append(line)
    return steps


def fits(shown, output):
    """Whether an output is what a text shows; `...` is any part of a line, alone on a line any lines."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else re.escape(line).replace(re.escape("..."), ".*") + "\n" for line in shown
    )
    return re.fullmatch(pattern, output) is not None


@pytest.mark.parametrize(
    ("shown", "output", "fitting"),
    [
        ("a", "a\nb\n", False),
        ("a.c", "abc\n", False),
        ("a ... c", "a b b c\n", True),
        ("...\nc", "a\nb\nc\n", True),
        ("...\nc", "a\nb\nc\nd\n", False),
    ],
)
def test_what_a_page_shows_is_held_against_the_output(shown, output, fitting):
    assert fits(shown.splitlines(), output) == fitting


@pytest.fixture
def project(tmp_path):
    """A folder to type in, with the notebooks and a build folder of its own."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return tmp_path


def type_all(text, project):
    """Type every command of a text and return what did not come out as shown."""
    environment = {**os.environ, "BHL_BUILD_DIR": str(project / "build"), "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment.pop("MPLBACKEND", None)  # a reader's shell has none, and with it a kernel shows no figures
    wrong = []
    for command, shown in console(text):
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
        done = subprocess.run(["bash", "-c", command], cwd=project, env=environment, **piped)
        if not fits(shown, done.stdout):
            wrong.append(f"$ {command}\n{done.stdout}")
    return wrong


@pytest.mark.slow
def test_every_command_of_the_page_shows_what_the_page_shows(project):
    text = (ROOT / "book" / "run_it_your_way.md").read_text("utf-8")
    typed = " ".join(command for command, _ in console(text))
    assert all(word in typed for word in ("bhl run", "bhl study", "bhl book", "papermill", "--time-limit", "for n in"))
    assert type_all(text, project) == []
    metrics = nbformat.read(project / "out.ipynb", as_version=4).metadata.papermill
    assert metrics.parameters == {"profile": "smoke", "epocs": 1}
    assert metrics.exception


def test_the_page_names_the_folders_that_there_are():
    text = (ROOT / "book" / "run_it_your_way.md").read_text("utf-8")
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src" / "beyond_hard_labels").rglob("*.py"))
    for folder in re.findall(r"^\| `build/(\w+)", text, re.M):
        assert f'"{folder}' in source, folder


@pytest.fixture
def own_files(project):
    """A user's files, from scratch: grey JPEG images of three classes, some in a folder, and a table of votes."""
    rng = np.random.default_rng(0)
    (project / "images" / "second").mkdir(parents=True)
    rows = ["image,label,who"]
    for i in range(60):
        name = f"{'second/' if i % 2 else ''}scan {i:02d}.jpg"
        pixels = rng.integers(0, 90, (40, 50)) + 80 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(project / "images" / name)
        chances = np.roll([0.7, 0.2, 0.1], i % 3)
        rows += [f"{name},{('dark', 'mid', 'bright')[c]},{who}" for who, c in enumerate(rng.choice(3, 9, p=chances))]
    (project / "votes.csv").write_text("\n".join(rows) + "\n")
    return project


def outputs(path):
    """The text of an executed notebook's outputs, and its figures' number."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    data = [
        output.data for c in cells for output in c.outputs if output.output_type in ("display_data", "execute_result")
    ]
    return "\n".join(d.get("text/markdown", "") for d in data), sum("image/png" in d for d in data)


@pytest.mark.slow
def test_the_chapter_of_own_votes_works_as_written_with_a_users_files(own_files):
    text = "\n".join(c.source for c in nbformat.read(YOUR_VOTES, as_version=4).cells if c.cell_type == "markdown")
    typed = " ".join(command for command, _ in console(text))
    assert all(word in typed for word in ("papermill", "data import", "data describe", "bhl study", "bhl run"))
    assert type_all(text, own_files) == []
    shown, figures = outputs(own_files / "out.ipynb")
    assert figures == 2
    assert "| image | label | annotator |" in shown
    assert re.search(r"^\| hard \| .*\n\| soft \| .*", shown, re.M)
    assert re.search(r"\[6 runs\]\(#runs-\w+\)", shown)
    with np.load(own_files / "build" / "sets" / "mine.npz") as file:
        assert file["class_names"].tolist() == ["bright", "dark", "mid"]
        assert file["ids"][-1] == "second/scan 59.jpg"
        assert file["counts"].sum() == 60 * 9


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_chapter_of_own_votes_stops_at_faulty_files_and_lists_them(own_files):
    import papermill

    (own_files / "images" / "scan 00.jpg").write_text("no image")
    (own_files / "images" / "scan 02.jpg").unlink()
    parameters = {"profile": "smoke", "votes_csv": "votes.csv", "image_folder": "images"}
    with_one = {"votes_csv": "votes.csv"}
    for given, message in ((parameters, r"(?s)2 fault.*scan 00\.jpg.*scan 02\.jpg"), (with_one, "expected two paths")):
        with pytest.raises(papermill.PapermillExecutionError, match=message):
            papermill.execute_notebook(
                YOUR_VOTES, own_files / "out.ipynb", given, progress_bar=False, cwd=own_files, kernel_name="python3"
            )


# JupyterLab


@pytest.fixture
def lab(tmp_path):
    """JupyterLab as `make lab` starts it, but for the browser; returns a function that asks its REST API."""
    recipe = re.search(r"^lab:.*\n\t\.venv/bin/jupyter (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    options = ["--no-browser", "--allow-root", "--port=0", "--ServerApp.token=secret"]
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("RUNTIME", "CONFIG")}
    command, log = [BIN / "jupyter", *recipe.split(), *options], tmp_path / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env=os.environ | folders)
    try:
        for _ in range(600):
            if found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text()):
                break
            assert server.poll() is None
            time.sleep(0.1)

        def ask(path, **body):
            headers = {"Authorization": "token secret", "Content-Type": "application/json"}
            content = json.dumps(body).encode() if body else None
            request = urllib.request.Request(found[0] + path, data=content, headers=headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())

        yield ask
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_lab_opens_on_the_notebooks_and_runs_the_first_ones_cells_in_the_projects_environment(lab, tmp_path):
    from jupyter_client import BlockingKernelClient

    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert set(notebooks) <= {entry["name"] for entry in lab("api/contents")["content"]}
    kernels = lab("api/kernelspecs")
    assert kernels["default"] == "python3"
    first = lab(f"api/contents/{notebooks[0]}")["content"]
    assert first["metadata"]["kernelspec"]["name"] in kernels["kernelspecs"]
    parameters, *others = [c["source"] for c in first["cells"] if c["cell_type"] == "code"][:3]
    assert "n_images = None" in parameters
    asked = "import sys, beyond_hard_labels; print(sys.prefix, beyond_hard_labels.__file__)"
    kernel = lab("api/kernels", name="python3")["id"]
    client = BlockingKernelClient(connection_file=str(tmp_path / "RUNTIME" / f"kernel-{kernel}.json"))
    client.load_connection_file()
    client.start_channels()
    shown = []
    for cell in (parameters.replace("n_images = None", "n_images = 100"), *others, asked):
        reply = client.execute_interactive(cell, timeout=300, output_hook=(said := []).append)
        assert reply["content"]["status"] == "ok", reply["content"]
        texts = [m["content"].get("text", "") or m["content"].get("data", {}).get("text/markdown", "") for m in said]
        shown.append("".join(texts))
    client.stop_channels()
    assert "100 generated images" in shown[1]
    assert shown[2].count("\n| ") == 6  # a rule and five rows under the heading
    assert shown[3].split() == [sys.prefix, str(ROOT / "src" / "beyond_hard_labels" / "__init__.py")]
