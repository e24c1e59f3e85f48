import json
import re
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.book import build, report
from beyond_hard_labels.runs import ensure, execute, fresh, study
from conftest import ROOT, TINY, remade

pytestmark = pytest.mark.filterwarnings("default")  # what kernels and their clients warn of is not ours


def notebook(*sources):
    made = new_notebook(metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}})
    made.cells = [new_markdown_cell("# Title"), *map(new_code_cell, sources)]
    return made


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
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/01_one\n")
    (root / "book" / "intro.md").write_text("# Title\n\nKL {{ soft.kl }}, profile {{ profile }}.\n")
    nbformat.write(notebook("1 + 1"), root / "notebooks" / "01_one.ipynb")
    monkeypatch.setattr(paths, "project_folder", lambda: root)
    return root


@pytest.fixture
def small():
    return study.plan("smoke", **TINY)


@pytest.fixture
def without_pages(monkeypatch):
    """Leave out the slow last step, for tests that look at what is executed."""
    monkeypatch.setattr(build, "_build_html", lambda stage, log: None)


def built(project, small, **options):
    return build.make(small, workers=1, **options)


def test_a_page_shows_the_number_of_the_run(project, small):
    page = built(project, small)
    shown = (page.parent / "book" / "intro.html").read_text()
    assert report.plain(report.texts(small, ensure.ensure(small))["soft.kl"]) in shown
    assert "{{" not in shown


def loaded_from_elsewhere(html):
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]+)")
    return [(page.name, address) for page in html.rglob("*.html") for address in loaded.findall(page.read_text())]


def test_pages_load_nothing_from_another_host_and_bring_their_own_mathjax(project, small):
    (project / "book" / "intro.md").write_text("# Title\n\nThe share $t$.\n")
    html = built(project, small).parent
    assert loaded_from_elsewhere(html) == []
    assert "_static/mathjax/tex-mml-chtml.js" in (html / "book" / "intro.html").read_text()
    assert (html / "_static" / "mathjax" / "tex-mml-chtml.js").is_file()
    assert list((html / "_static" / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))


def test_where_the_repository_is_known_chapters_link_to_binder_and_load_nothing_of_it(project, small, monkeypatch):
    monkeypatch.setenv("BHL_REPOSITORY_URL", "https://github.com/someone/somewhere")
    html = built(project, small).parent
    chapter = (html / "notebooks" / "01_one.html").read_text()
    assert "https://mybinder.org/v2/gh/someone/somewhere/main?urlpath=lab/tree/notebooks/01_one.ipynb" in chapter
    assert "mybinder.org" not in (html / "book" / "intro.html").read_text()
    assert "colab" not in chapter
    assert loaded_from_elsewhere(html) == []


def test_the_downloadable_notebook_is_the_executed_one(project, small):
    page = built(project, small)
    copy = nbformat.read(page.parent / "_sources" / "notebooks" / "01_one.ipynb", as_version=4)
    assert copy.cells[-1].outputs[0].data["text/plain"] == "2"
    assert "papermill" not in copy.metadata
    assert str(project) not in nbformat.writes(copy)


def test_an_unknown_placeholder_stops_the_build_and_is_named_with_its_line(project, small):
    (project / "book" / "intro.md").write_text("# Title\n\n{{ soft.klx }}\n")
    with pytest.raises(InputError, match=r"book/intro\.md, line 3: unknown placeholder 'soft\.klx'"):
        built(project, small)


def test_a_failing_cell_stops_the_build_with_its_traceback_and_keeps_the_last_copy(project, small):
    built(project, small)
    nbformat.write(notebook("1 / 0"), project / "notebooks" / "01_one.ipynb")
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
    ],
)
@pytest.mark.usefixtures("without_pages")
def test_every_way_to_die_names_notebook_cell_and_last_lines_and_publishes_nothing(project, small, cells, message):
    nbformat.write(notebook(*cells), project / "notebooks" / "01_one.ipynb")
    with pytest.raises(build.BookError, match=f"(?s)notebook 01_one {message}"):
        built(project, small, cell_timeout=5)
    assert not (paths.build_folder() / "executed" / "01_one.ipynb").exists()
    assert not (paths.build_folder() / "book").exists()


@pytest.mark.usefixtures("without_pages")
def test_all_failures_of_notebooks_in_parallel_are_told(project, small):
    nbformat.write(notebook("1 / 0"), project / "notebooks" / "01_one.ipynb")
    nbformat.write(notebook("[][1]"), project / "notebooks" / "02_two.ipynb")
    with (project / "_toc.yml").open("a") as toc:
        toc.write("  - file: notebooks/02_two\n")
    with pytest.raises(build.BookError, match=r"(?s)01_one failed.*ZeroDivisionError.*02_two failed.*IndexError"):
        build.make(small, workers=2)


@pytest.mark.usefixtures("without_pages")
def test_notebooks_run_in_parallel_processes(project, small):
    wait = "import pathlib, time\npathlib.Path('{0}').touch()\nwhile not pathlib.Path('{1}').exists(): time.sleep(0.1)"
    for name, mine, other in (("01_one", "a", "b"), ("02_two", "b", "a")):
        nbformat.write(notebook(wait.format(mine, other)), project / "notebooks" / f"{name}.ipynb")
    with (project / "_toc.yml").open("a") as toc:
        toc.write("  - file: notebooks/02_two\n")
    build.make(small, workers=2, cell_timeout=60)  # each waits for the other


@pytest.mark.usefixtures("without_pages")
def test_a_stripped_copy_is_not_published(project, small):
    built(project, small)
    path = paths.build_folder() / "executed" / "01_one.ipynb"
    copy = nbformat.read(path, as_version=4)
    copy.cells[-1].update(outputs=[], execution_count=None)
    nbformat.write(copy, path)
    with pytest.raises(build.BookError, match=r"01_one is not whole, see .*: cell 2 never ran"):
        built(project, small)


@pytest.mark.usefixtures("without_pages")
def test_a_run_that_lacks_a_file_is_named_and_made_again(project, small, capfd):
    built(project, small)
    features = paths.build_folder() / "runs" / small.spec("hard", 0).key / "features.npz"
    features.unlink()
    built(project, small)
    assert "is not whole, features.npz not found; it is set aside as " in capfd.readouterr().err
    assert features.is_file()


def test_a_cell_that_writes_to_stderr_stops_the_build(project, small):
    nbformat.write(notebook("import warnings; warnings.warn('look here')"), project / "notebooks/01_one.ipynb")
    with pytest.raises(build.BookError, match=r"(?s)01_one is not whole.*cell 2 wrote to stderr.*look here"):
        built(project, small)


def test_a_broken_reference_stops_the_build_and_shows_the_warning(project, small):
    (project / "book" / "intro.md").write_text("# Title\n\n{doc}`nowhere`\n")
    with pytest.raises(build.BookError, match=r"(?s)jupyter-book ended with code.*nowhere"):
        built(project, small)
    assert not (paths.build_folder() / "book").exists()


@pytest.mark.usefixtures("without_pages")
def test_only_keeps_the_other_copies_and_refuses_those_of_another_study(project, small):
    nbformat.write(notebook("2 + 2"), project / "notebooks" / "02_two.ipynb")
    with (project / "_toc.yml").open("a") as toc:
        toc.write("  - file: notebooks/02_two\n")
    built(project, small)
    first = paths.build_folder() / "executed" / "01_one.ipynb"
    before = first.stat().st_mtime_ns
    nbformat.write(notebook("3 + 3"), project / "notebooks" / "02_two.ipynb")
    built(project, small, only="02_two")
    assert first.stat().st_mtime_ns == before
    second = nbformat.read(paths.build_folder() / "executed" / "02_two.ipynb", as_version=4)
    assert second.cells[-1].outputs[0].data["text/plain"] == "6"
    with pytest.raises(InputError, match=r"was executed with '--profile smoke .*, not '--profile quick'"):
        built(project, study.plan("quick"), only="02_two")


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


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("1 + 1  # and a comment", "code cells changed", id="an edited cell"),
        pytest.param(
            "from beyond_hard_labels import shapes", "code cells changed, images.py is new", id="a new import"
        ),
    ],
)
@pytest.mark.usefixtures("without_pages")
def test_an_edited_cell_executes_the_notebook_again_and_says_why(project, small, capsys, source, reason):
    built(project, small)
    nbformat.write(notebook(source), project / "notebooks" / "01_one.ipynb")
    built(project, small)
    assert f"01_one is executed: {reason}" in capsys.readouterr().err


@pytest.mark.usefixtures("without_pages")
def test_other_results_of_the_runs_execute_the_notebooks_that_read_them_and_no_others(project, small, capsys):
    nbformat.write(
        notebook("from beyond_hard_labels.runs.study import ensure, plan", f"len(ensure(plan('smoke', **{TINY})))"),
        project / "notebooks" / "02_two.ipynb",
    )
    with (project / "_toc.yml").open("a") as toc:
        toc.write("  - file: notebooks/02_two\n")
    built(project, small)
    folder = paths.build_folder() / "runs" / small.spec("soft", 0).key
    remade(folder, code={})  # trained again, to the same files
    built(project, small)
    assert "02_two is kept" in capsys.readouterr().err
    (folder / "history.csv").write_text((folder / "history.csv").read_text().replace("\n1,", "\n1.0,"))
    remade(folder)
    built(project, small)
    told = capsys.readouterr().err
    assert "02_two is executed: runs changed" in told
    assert "01_one is kept: fresh" in told


def test_a_changed_module_executes_the_notebooks_that_use_it_and_no_others(project, monkeypatch, small):
    user, other = project / "notebooks" / "01_one.ipynb", project / "notebooks" / "02_two.ipynb"
    nbformat.write(notebook("from beyond_hard_labels import votes"), user)
    nbformat.write(notebook("1 + 1"), other)
    before = build.inputs(user, small), build.inputs(other, small)
    real = fresh.code_fingerprint
    monkeypatch.setattr(fresh, "code_fingerprint", lambda *m: "another" if m == ("votes",) else real(*m))
    after = build.inputs(user, small), build.inputs(other, small)
    assert fresh.changes(before[0], after[0]) == ["votes.py changed"]
    assert after[1] == before[1]


@pytest.mark.usefixtures("without_pages")
def test_other_parameters_execute_every_notebook(project, small, capsys):
    built(project, small)
    built(project, study.plan("smoke", **(TINY | {"perplexity": 5.0})))
    assert "01_one is executed: parameters changed" in capsys.readouterr().err


@pytest.mark.usefixtures("without_pages")
def test_a_full_disk_is_named_when_the_book_is_staged_and_with_room_it_is(disk, full, project, small):
    filler = full(left=400_000)
    with pytest.raises(files.Unwritten) as raised:
        built(project, small)
    stage = disk / "build" / "book.staging"
    assert str(raised.value) == f"{stage} cannot be written: No space left on device in {stage.parent}"
    assert not stage.exists()
    filler.unlink()
    built(project, small)
    assert (stage.parent / "book" / "printed.json").is_file()


def test_prose_and_metadata_come_from_the_source_and_injected_parameters_stay():
    source = notebook("p = 1", "p")
    source.cells[2].metadata["tags"] = ["hide-input"]
    ran = notebook("p = 1", "p = 2", "p")
    ran.cells[2].metadata["tags"] = ["injected-parameters"]
    source.cells[0].source = "# New"
    merged = build.with_prose_of(source, ran)
    assert [cell.source for cell in merged.cells] == ["# New", "p = 1", "p = 2", "p"]
    assert merged.cells[3].metadata.tags == ["hide-input"]


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
    assert build.unfinished(made) == [fault]


def test_repository_buttons_need_an_address(tmp_path, monkeypatch):
    import yaml

    for url in (None, "https://github.com/someone/somewhere"):
        if url:
            monkeypatch.setenv("BHL_REPOSITORY_URL", url)
        build._write_config(ROOT / "_config.yml", tmp_path / "_config.yml")
        config = yaml.safe_load((tmp_path / "_config.yml").read_text())
        assert config["html"]["use_repository_button"] is bool(url)
        assert config.get("repository", {}).get("url") == url
        assert ("launch_buttons" in config) is bool(url)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[], ["epoch", "gpu"]])
def test_the_page_on_speed_is_built_with_and_without_measurements(project, small, rows):
    from test_speed import row

    shutil.copy(ROOT / "book" / "speed.md", project / "book")
    contents = (project / "_toc.yml").read_text()
    (project / "_toc.yml").write_text(f"{contents}  - file: book/speed\n")
    (project / "results" / "bench").mkdir(parents=True)
    for name in rows:
        files.write_json(project / "results" / "bench" / f"{name}.json", row(name, ratio=1.0))
    page = built(project, small).parent / "book" / "speed.html"
    assert ("ROWS=gpu" in page.read_text()) == (not rows)


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


def test_the_curves_of_a_run_are_drawn_once_and_again_if_their_file_is_damaged(project, small, without_pages):
    def pictures():
        folder = built(project, small).parents[2] / "runs"
        return {path.name: path.read_bytes() for path in folder.glob("*.png")}

    before, drawn = pictures(), {p: p.stat().st_mtime_ns for p in (paths.build_folder() / "curves").iterdir()}
    assert len(before) == len(drawn) == 2
    damaged = next(iter(drawn))
    damaged.write_bytes(damaged.read_bytes()[:-50])
    assert pictures() == before
    assert {p for p, time in drawn.items() if p.stat().st_mtime_ns != time} == {damaged}
