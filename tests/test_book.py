import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import build, execution, pages
from beyond_hard_labels.runs import ensure, execute, fresh, study
from conftest import ROOT, TINY, remade

pytestmark = pytest.mark.filterwarnings("default")  # what kernels and their clients warn of is not ours

SETUP = (
    "from beyond_hard_labels.book.notebook import about, claim, say, show\n"
    "from beyond_hard_labels.runs.ensure import ensure\n"
    "from beyond_hard_labels.runs.study import plan\n"
    f"study = plan('smoke', **{TINY})\n"
    "runs = ensure(study)\n"
    "about(study, runs)"
)
SOFT = "kl = {run.spec.labels: run.metrics['kl'] for run in runs}['soft']\nsay(f'KL {kl:.3f}.', runs, kl=f'{kl:.3f}')"
CLAIM = "claim('Soft labels have the lower KL.', kl < 1e9, runs, name='lower')"


def notebook(*sources):
    made = new_notebook(metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}})
    made.cells = [new_markdown_cell("# Title"), *map(new_code_cell, sources)]
    return made


def write(project, name, *sources):
    """Write a notebook, and name it in the table of contents."""
    nbformat.write(notebook(*sources), project / "notebooks" / f"{name}.ipynb")
    contents = (project / "_toc.yml").read_text()
    if f"notebooks/{name}\n" not in contents:
        (project / "_toc.yml").write_text(f"{contents}  - file: notebooks/{name}\n")


@pytest.fixture(scope="module")
def tiny_runs(tmp_path_factory):
    """The runs of the small study, trained once for all tests here."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(folder))
        for spec in study.plan("smoke", **TINY).specs():
            execute.execute(spec)
    return folder / "runs"


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_runs):
    """A small project: one notebook, one page, the real configuration, finished runs."""
    shutil.copytree(tiny_runs, paths.build_folder() / "runs")
    root = tmp_path / "project"
    for folder in ("notebooks", "src"):
        (root / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    shutil.copy(ROOT / "book" / "runs.md", root / "book")
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n  - file: book/runs\n")
    (root / "book" / "intro.md").write_text("# Title\n\n{{ badge }}\n\nProfile {{ profile }}.\n")
    write(root, "01_one", "1 + 1")
    monkeypatch.setattr(paths, "project_folder", lambda: root)
    return root


@pytest.fixture
def small():
    return study.plan("smoke", **TINY)


@pytest.fixture
def without_pages(monkeypatch):
    """Leave out the slow last step, for tests that look at what is executed."""

    def leave_out(stage, log):
        (stage / "_build" / "html").mkdir(parents=True, exist_ok=True)
        (stage / "_build" / "html" / "index.html").touch()

    monkeypatch.setattr(build, "build_html", leave_out)


def built(project, small, **options):
    return build.make(small, workers=1, **options)


def test_a_page_shows_a_chapters_number_and_claim_with_a_way_to_each_run(project, small):
    write(project, "01_one", SETUP, SOFT, CLAIM)
    asked = "{{ number('01_one', 'kl') }}.\n\n{{ claim('01_one', 'lower') }}"
    (project / "book" / "intro.md").write_text(f"# Title\n\nKL {asked}\n")
    page = built(project, small)
    shown, runs = ((page.parent / "book" / f"{name}.html").read_text() for name in ("intro", "runs"))
    found = ensure.ensure(small)
    kl = f"{found[1].metrics['kl']:.3f}"
    label = pages.notebook.label(found)
    assert re.search(rf'href="runs\.html#{label}"[^>]*><span[^>]*>{kl}', shown)
    assert "Soft labels have the lower KL." in shown
    assert "holds in these runs" in shown
    for run in found:
        assert re.search(rf'href="\.\./runs/{run.name}\.html#run-{run.name}"', runs)
        own = re.sub("<[^>]+>", "", (page.parent / "runs" / f"{run.name}.html").read_text())
        assert f"bhl compare {run.spec.key}" in own
    sidebar = shown[shown.index("bd-links") : shown.index("</nav>", shown.index("bd-links"))]
    assert [link for link in re.findall(r'href="([^"]+)"', sidebar) if "run" in link] == ["runs.html"]


def test_pages_load_nothing_from_another_host_also_where_they_link_to_binder(project, small, monkeypatch):
    config = yaml.safe_load(build.config(ROOT))  # without an address there are no buttons
    assert config["html"]["use_repository_button"] is False
    assert not {"repository", "launch_buttons"} & set(config)
    monkeypatch.setenv("BHL_REPOSITORY_URL", "https://github.com/someone/somewhere")
    (project / "book" / "intro.md").write_text("# Title\n\nThe share $t$.\n")
    html = built(project, small).parent
    intro, chapter = ((html / name).read_text() for name in ("book/intro.html", "notebooks/01_one.html"))
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]+)")
    assert [address for path in html.rglob("*.html") for address in loaded.findall(path.read_text())] == []
    assert "_static/mathjax/tex-mml-chtml.js" in intro
    assert (html / "_static" / "mathjax" / "tex-mml-chtml.js").is_file()
    assert list((html / "_static" / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))
    assert "https://mybinder.org/v2/gh/someone/somewhere/main?urlpath=lab/tree/notebooks/01_one.ipynb" in chapter
    assert "mybinder.org" not in intro
    assert "colab" not in chapter
    copy = nbformat.read(html / "_sources" / "notebooks" / "01_one.ipynb", as_version=4)  # what a reader downloads
    assert copy.cells[-1].outputs[0].data["text/plain"] == "2"
    assert "papermill" not in copy.metadata
    assert str(project) not in nbformat.writes(copy)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("{{ klx }}", "line 3: 'klx' is undefined"),
        ("{{ number('01_one', 'klx') }}", "line 3: 01_one has no number 'klx', expected one of 'kl'"),
        ("{{ claim('02_two', 'kl') }}", "line 3: 02_two has no claim 'kl', expected one of none"),
        ("{{ number('02_two', 'kl') }}", "line 3: 02_two has no number 'kl', expected one of 'kl' of 01_one"),
        ("{{ tables.runz }}", "line 3: .* has no attribute 'runz'"),
        ("x\n{% for %}", "line 4: "),
    ],
)
def test_a_page_that_asks_for_what_there_is_not_is_named_with_its_line(project, small, asked, message):
    (project / "book" / "intro.md").write_text(f"# Title\n\n{asked}\n")
    with pytest.raises(InputError, match=rf"book/intro\.md, {message}"):
        pages.made(project, small, ensure.ensure(small), said({"runs": [], "numbers": {"kl": "0.5"}}, name="01_one"))


def test_a_name_that_a_chapter_gives_twice_is_refused():
    outputs = [pages.Output("04", cell, "", {"runs": [], "numbers": {"kl": "1"}}) for cell in (3, 5)]
    with pytest.raises(InputError, match="04, cell 5: there is a number 'kl' already"):
        pages.named(outputs)


def test_a_failing_cell_stops_the_build_with_its_traceback_and_keeps_the_last_copy(project, small):
    built(project, small)
    write(project, "01_one", "1 / 0")
    with pytest.raises(build.BookError, match=r"(?s)notebook 01_one failed in cell 2.*1 / 0.*ZeroDivisionError"):
        built(project, small)
    kept = nbformat.read(paths.build_folder() / "executed" / "01_one.ipynb", as_version=4)
    assert kept.cells[-1].outputs[0].data["text/plain"] == "2"
    assert (paths.build_folder() / "book" / "_build" / "html" / "index.html").is_file()


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        pytest.param(
            ["1 + 1", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"],
            r"failed in cell 3 .*os\.kill.*its kernel died: killed, or out of memory",
            id="killed, as by the system when memory runs out",
        ),
        pytest.param(["import os; os.abort()"], r"failed in cell 2 .*os\.abort.*its kernel died", id="aborted"),
        pytest.param(
            [LIMIT, "print('before')\nx = bytearray(2**33)"],
            r"failed in cell 3 .*bytearray.*\| before.*MemoryError",
            id="out of memory, as Python sees it",
        ),
        pytest.param(
            ["print('waiting', flush=True)\nimport time; time.sleep(60)", "1"],
            r"failed in cell 2 .*time\.sleep.*\| waiting.*timed out .* after 5 seconds",
            id="time limit",
        ),
        pytest.param(
            ["import warnings; warnings.warn('look here')"],
            "is not whole.*cell 2 wrote to stderr.*look here",
            id="a word on stderr",
        ),
    ],
)
@pytest.mark.usefixtures("without_pages")
def test_every_way_to_fail_names_notebook_cell_and_last_lines_and_publishes_nothing(project, small, cells, message):
    write(project, "01_one", *cells)
    with pytest.raises(build.BookError, match=f"(?s)notebook 01_one {message}"):
        built(project, small, cell_timeout=5)
    assert not (paths.build_folder() / "executed" / "01_one.ipynb").exists()
    assert not (paths.build_folder() / "book").exists()


@pytest.mark.usefixtures("without_pages")
def test_notebooks_run_in_parallel_processes_and_all_their_failures_are_told(project, small):
    wait = "import pathlib, time\npathlib.Path('{0}').touch()\nwhile not pathlib.Path('{1}').exists(): time.sleep(0.1)"
    for name, mine, other in (("01_one", "a", "b"), ("02_two", "b", "a")):
        write(project, name, wait.format(mine, other), f"{mine} + 1")
    with pytest.raises(build.BookError, match=r"(?s)01_one failed.*NameError.*'a'.*02_two failed.*NameError.*'b'"):
        build.make(small, workers=2, cell_timeout=60)  # each waits for the other


@pytest.mark.usefixtures("without_pages")
def test_a_stripped_copy_is_not_published_and_a_run_that_lacks_a_file_is_made_again(project, small, capfd):
    built(project, small)
    features = paths.build_folder() / "runs" / small.spec("hard", 0).key / "features.npz"
    features.unlink()
    path = paths.build_folder() / "executed" / "01_one.ipynb"
    copy = nbformat.read(path, as_version=4)
    copy.cells[-1].update(outputs=[], execution_count=None)
    nbformat.write(copy, path)
    with pytest.raises(build.BookError, match=r"01_one is not whole, see .*: cell 2 never ran"):
        built(project, small)
    assert "is not whole, features.npz not found; it is set aside as " in capfd.readouterr().err
    assert features.is_file()


def test_a_broken_reference_stops_the_build_and_shows_the_warning(project, small):
    (project / "book" / "intro.md").write_text("# Title\n\n{doc}`nowhere`\n")
    with pytest.raises(build.BookError, match=r"(?s)jupyter-book ended with code.*nowhere"):
        built(project, small)
    assert not (paths.build_folder() / "book").exists()


@pytest.mark.usefixtures("without_pages")
def test_only_keeps_the_other_copies_and_refuses_those_of_another_study(project, small):
    write(project, "02_two", "2 + 2")
    built(project, small)
    first = paths.build_folder() / "executed" / "01_one.ipynb"
    before = first.stat().st_mtime_ns
    write(project, "02_two", "3 + 3")
    built(project, small, only="02_two")
    assert first.stat().st_mtime_ns == before
    second = nbformat.read(paths.build_folder() / "executed" / "02_two.ipynb", as_version=4)
    assert second.cells[-1].outputs[0].data["text/plain"] == "6"
    with pytest.raises(InputError, match=r"01_one has no executed copy at .* of '--profile quick'"):
        built(project, study.plan("quick"), only="02_two")


def test_an_unchanged_book_is_not_made_again_and_one_edited_page_is_all_that_is_read_again(project, small, capsys):
    write(project, "01_one", SETUP, SOFT, "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])")
    page = built(project, small)
    first = page.stat().st_ino
    built(project, small)
    assert "nothing to do" in capsys.readouterr().err
    assert page.stat().st_ino == first
    with (project / "book" / "intro.md").open("a") as file:
        file.write("\nThis sentence is new.\n")
    built(project, small)
    assert "This sentence is new." in (page.parent / "book" / "intro.html").read_text()
    assert "0 added, 1 changed, 0 removed" in (paths.build_folder() / "book.log").read_text()
    assert (page.parent / "_images").is_dir()  # the pictures of pages that were not read again
    for path in page.parent.rglob("*.html"):
        for source in re.findall(r'<img[^>]* src="([^"#:]+)"', path.read_text()):
            assert (path.parent / source).is_file(), (path, source)


@pytest.mark.parametrize("what", ["page", "run", "copy", "config"])
@pytest.mark.usefixtures("without_pages")
def test_whatever_is_gone_or_changed_there_is_something_to_do(project, small, capsys, what):
    write(project, "01_one", SETUP, SOFT)
    page = built(project, small)
    folder = paths.build_folder()
    changed = {
        "page": page,
        "run": folder / "runs" / small.spec("hard", 0).key / "weights.safetensors",
        "copy": folder / "executed" / "01_one.ipynb",
        "config": project / "_config.yml",
    }[what]
    if what == "config":
        changed.write_text(changed.read_text().replace("title: ", "title: Not "))
    else:
        changed.unlink()
    built(project, small)
    assert "nothing to do" not in capsys.readouterr().err
    assert page.is_file()


def test_a_link_to_what_went_away_is_found_though_its_own_page_is_the_same(project, small):
    (project / "book" / "intro.md").write_text("# Title\n\nSee [there](#place).\n")
    (project / "book" / "other.md").write_text("# Other\n\n(place)=\n## Place\n\nText.\n")
    with (project / "_toc.yml").open("a") as contents:
        contents.write("  - file: book/other\n")
    page = built(project, small)
    (project / "book" / "other.md").write_text("# Other\n\n## Place\n\nText.\n")
    for _ in range(2):  # and again: nothing is kept of a build that failed
        with pytest.raises(build.BookError, match="place"):
            built(project, small)
    assert "Other" in (page.parent / "book" / "other.html").read_text()


def executed(name="01_one"):
    return (paths.build_folder() / "executed" / f"{name}.ipynb").stat().st_mtime_ns


@pytest.mark.usefixtures("without_pages")
def test_nothing_is_executed_again_when_nothing_or_only_prose_changed(project, small, capsys):
    built(project, small)
    before = executed()
    source = project / "notebooks" / "01_one.ipynb"
    made = nbformat.read(source, as_version=4)
    made.cells[0].source = "# Another title"
    nbformat.write(made, source)
    built(project, small)
    assert executed() == before
    assert "01_one is kept: fresh" in capsys.readouterr().err
    copy = nbformat.read(paths.build_folder() / "book" / "notebooks" / "01_one.ipynb", as_version=4)
    assert copy.cells[0].source == "# Another title"
    assert copy.cells[-1].outputs[0].data["text/plain"] == "2"


@pytest.mark.usefixtures("without_pages")
def test_an_edited_cell_and_other_parameters_execute_the_notebook_again_and_say_why(project, small, capsys):
    built(project, small)
    write(project, "01_one", "from beyond_hard_labels.data import images")
    built(project, small)
    assert "01_one is executed: code cells changed; base.errors is new" in capsys.readouterr().err
    built(project, study.plan("smoke", **(TINY | {"perplexity": 5.0})))
    assert "01_one is executed: parameters changed" in capsys.readouterr().err


@pytest.mark.usefixtures("without_pages")
def test_other_results_of_the_runs_execute_the_notebooks_that_read_them_and_no_others(project, small, capsys):
    write(project, "02_two", SETUP)
    built(project, small)
    folder = paths.build_folder() / "runs" / small.spec("soft", 0).key
    with np.load(folder / "features.npz") as file:
        features = file["test"]
    np.savez(folder / "features.npz", test=features + 1)
    remade(folder)
    built(project, small)
    told = capsys.readouterr().err
    assert f"02_two is executed: run {folder.name} changed" in told
    assert "01_one is kept: fresh" in told


def test_a_run_that_comes_and_one_that_goes_execute_who_looked_for_it_again(tmp_path, project, small):
    source, copy = project / "notebooks" / "01_one.ipynb", tmp_path / "copy.ipynb"
    made = {"nothing abc": None, "run abc": "1", "run gone": "1"}
    about = {"inputs": execution.inputs(source, small) | {"reads": made}}
    copy.write_text(json.dumps({"cells": [], "metadata": {"beyond_hard_labels": about}}))

    def reasons(now):
        return fresh.told(execution.why_stale(source, copy, small, digest=lambda kind, name: now[f"{kind} {name}"]))

    assert reasons(made) == ""
    assert reasons(made | {"nothing abc": "2"}) == "nothing abc is new"
    assert reasons(made | {"run abc": "2"}) == "run abc changed"
    assert reasons(made | {"run gone": None}) == "run gone is not here to be compared"


def test_a_changed_module_executes_the_notebooks_that_use_it_and_no_others(project, monkeypatch, small):
    user, other = project / "notebooks" / "01_one.ipynb", project / "notebooks" / "02_two.ipynb"
    write(project, "01_one", "from beyond_hard_labels.data import votes")
    write(project, "02_two", "1 + 1")
    before = execution.inputs(user, small), execution.inputs(other, small)
    real = fresh.code_fingerprint
    monkeypatch.setattr(fresh, "code_fingerprint", lambda m: "another" if m == "data.votes" else real(m))
    after = execution.inputs(user, small), execution.inputs(other, small)
    assert fresh.told(fresh.changes(before[0], after[0])) == "data.votes changed"
    assert after[1] == before[1]


def test_what_changes_while_a_notebook_is_executed_makes_its_copy_stale(project, small):
    edit = "import pathlib\np = pathlib.Path('01_one.ipynb')\n_ = p.write_text(p.read_text().replace('1 + 1', '1 + 2'))"
    write(project, "01_one", "1 + 1", edit)
    source, copy = project / "notebooks" / "01_one.ipynb", project / "copy.ipynb"
    assert execution.execute(source, copy, small, 60) == []
    assert "code cells changed" in fresh.told(execution.why_stale(source, copy, small))


# Training


@pytest.mark.usefixtures("without_pages")
def test_no_kernel_trains_and_a_notebook_is_executed_again_when_the_runs_that_it_asks_for_are_there(
    project, small, monkeypatch, capsys
):
    asked = []
    monkeypatch.setattr(
        execution, "ensure_specs", lambda specs, **options: asked.append(specs) or ensure.ensure_specs(specs, **options)
    )
    more = [SETUP.replace("study = plan('smoke', **{", f"study = plan('smoke', **{{'data_seed': {s}, ") for s in (1, 2)]
    write(project, "01_one", more[0], "import os; len(runs), os.environ['BHL_TRAIN']", more[1], "len(runs)")
    built(project, small, cell_timeout=30)
    assert [[spec.data_seed for spec in specs] for specs in asked] == [[1, 1], [2, 2]]
    copy = execution.read_notebook(paths.build_folder() / "executed" / "01_one.ipynb")
    assert ["".join(c["outputs"][-1]["data"]["text/plain"]) for c in copy["cells"][3::2]] == ["(2, 'ask')", "2"]
    built(project, small)
    assert len(asked) == 2


def test_a_notebook_that_asks_for_the_same_runs_for_ever_is_a_failure(project, small, monkeypatch):
    monkeypatch.setattr(execution, "execute", lambda *call: [small.spec("soft", 0)])
    with pytest.raises(build.BookError, match="notebook 01_one asks for runs that were trained already"):
        execution.execute_all(project / "notebooks", project, {"01_one": (small, 60)}, 1)


@pytest.mark.usefixtures("without_pages")
def test_a_readers_own_files_go_to_their_notebook_and_to_no_other(project, small):
    write(project, "01_one", "sorted(name for name in globals() if name.startswith('votes_'))")
    write(project, "your_votes", "profile = 'quick'\nvotes_csv = None", "votes_csv")
    nbformat.write(parametrized(project / "notebooks" / "your_votes.ipynb"), project / "notebooks" / "your_votes.ipynb")

    def shown(name):
        copy = execution.read_notebook(paths.build_folder() / "book" / "notebooks" / f"{name}.ipynb")
        return "".join(copy["cells"][-1]["outputs"][-1]["data"]["text/plain"])

    built(project, small, own={"votes_csv": "mine.csv"})
    assert (shown("01_one"), shown("your_votes")) == ("[]", repr(str(Path("mine.csv").resolve())))
    before = executed()
    built(project, small, own={"votes_csv": "other.csv"})
    assert shown("your_votes") == repr(str(Path("other.csv").resolve()))
    assert executed() == before


def parametrized(path):
    made = nbformat.read(path, as_version=4)
    made.cells[1].metadata["tags"] = ["parameters"]
    return made


# Claims


def said(*records, name="04_four"):
    """A notebook as executed, one cell a record."""
    shown = [{"data": {"text/markdown": ""}, "metadata": {"beyond_hard_labels": record}} for record in records]
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [each]} for each in shown]
    return {name: {"cells": cells, "metadata": {"beyond_hard_labels": {"seconds": 1.0}}}}


def test_a_claim_that_does_not_hold_stops_the_book_of_the_published_results_and_no_other():
    true, false, open_ = (
        {"runs": [], "claim": name, "sentence": f"It is {name}.", "holds": holds, "decided": decided}
        for name, holds, decided in (("true", True, True), ("false", False, True), ("open", False, False))
    )
    quick = study.plan("quick")
    build._require_claims(quick, said(true, open_))
    with pytest.raises(build.BookError, match=r"(?s)do not hold in these runs.*04_four, cell 2: It is false\.$"):
        build._require_claims(quick, said(true, false, open_))
    build._require_claims(study.plan("quick", epochs=3), said(false))
    build._require_claims(study.plan("smoke"), said(false))


@pytest.mark.usefixtures("without_pages")
def test_one_number_turned_round_in_a_chapter_stops_the_book(project, small, monkeypatch):
    check = build._require_claims  # as for the published results, which would take minutes
    monkeypatch.setattr(build, "_require_claims", lambda _, executed: check(study.plan("quick"), executed))
    write(project, "01_one", SETUP, SOFT, CLAIM)
    built(project, small)
    write(project, "01_one", SETUP, SOFT, CLAIM.replace("kl <", "-kl >"))
    with pytest.raises(build.BookError, match=r"01_one, cell 4: Soft labels have the lower KL\."):
        built(project, small)


@pytest.mark.usefixtures("without_pages")
def test_a_full_disk_is_named_when_the_book_is_staged_and_with_room_it_is(disk, full, project, small):
    filler = full(left=400_000)
    with pytest.raises(files.Unwritten) as raised:
        built(project, small)
    stage = disk / "build" / "stage"
    assert str(raised.value) == f"{stage} cannot be written: No space left on device in {stage.parent}"
    filler.unlink()
    built(project, small)
    assert (stage.parent / "book" / "book.json").is_file()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param({"execution_count": None}, "cell 1 never ran", id="never ran"),
        pytest.param({"outputs": [new_output("error", ename="E", evalue="v")]}, "cell 1 raised E: v", id="error"),
        pytest.param(
            {"outputs": [new_output("stream", name="stderr", text="w")]}, "cell 1 wrote to stderr: w", id="stderr"
        ),
    ],
)
def test_what_keeps_a_notebook_from_being_whole_is_named(change, fault):
    cell = new_code_cell("1", execution_count=1) | change
    made = new_notebook(cells=[nbformat.from_dict(cell)], metadata={"language_info": {"name": "python"}})
    assert execution.unfinished(made) == [fault]


def test_only_a_book_made_from_nothing_leaves_its_wall_time(project, small, without_pages):
    shutil.rmtree(paths.build_folder() / "runs")
    page = built(project, small)
    kept = paths.build_folder() / "full_book.json"
    made = json.loads(kept.read_text())
    assert (made["command"], made["trained"]) == (small.command, 2)
    kept.unlink()
    assert built(project, small) == page
    shutil.rmtree(paths.build_folder() / "executed")
    built(project, small)
    assert not kept.exists()
