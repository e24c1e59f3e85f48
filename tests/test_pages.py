"""The built book in a real browser: what a page loads, shows and lets its readers do."""

import functools
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urldefrag, urlsplit

import nbformat
import pytest

from test_book import built, project, small, tiny_runs, write  # noqa: F401

pytestmark = pytest.mark.slow

THEMES_OWN = ("search.html", "genindex.html")
AXE = {"resultTypes": ["violations"], "preload": False}  # preloading would request style sheets a second time
FACTS = """() => ({
    unset_maths: [...document.querySelectorAll(".math")].filter(m => !m.querySelector("mjx-container") ||
        m.querySelector("mjx-merror, [data-mml-node=merror]")).map(m => m.textContent.slice(0, 80)),
    badges: document.querySelectorAll(".profile-badge").length,
    maths: document.querySelectorAll(".math").length,
    headings: [...document.querySelectorAll("h1")].filter(h => h.offsetParent).map(h => h.textContent),
    images: [...document.querySelectorAll("img")].map(i => [i.getAttribute("src"), i.getAttribute("alt")]),
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
    ids: [...document.querySelectorAll("[id]")].map(e => e.id),
})"""
TOO_WIDE = """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
    [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""


@contextmanager
def served(folder):
    """Serve a folder on this machine; give the address."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/favicon.ico":  # a browser may ask for it where a page names none, as the first address
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def opened(browser, address, width=1280):
    """Open a page in a fresh profile; give it with a list of what went wrong while it loaded."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.add_init_script("localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light')")
    page, wrong = context.new_page(), []
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(f"console {m.type}: {m.text}"))
    page.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"request failed: {request.url}"))
    page.on("response", lambda answer: answer.status >= 400 and wrong.append(f"{answer.status}: {answer.url}"))
    page.on("request", lambda request: is_foreign(request.url) and wrong.append(f"foreign request: {request.url}"))
    page.goto(address)  # a silent network alone may come before the page's own scripts have run
    page.wait_for_load_state("networkidle")
    page.evaluate("window.MathJax?.startup?.promise")
    yield page, wrong
    context.close()


def is_foreign(address):
    return urlsplit(address).scheme not in ("data", "blob", "file") and urlsplit(address).hostname != "127.0.0.1"


def visit(browser, address, *, briefly=False):
    """Look at a page on a desk, light and dark, and on a phone; return facts, and faults as lines.

    A brief look is for the thirtieth page of one template: it says what the page has, and whether it loads.
    """
    with opened(browser, address) as (page, wrong):
        record = page.evaluate(FACTS) | {"wrong": wrong, "axe": [], "too_wide": []}
        if briefly:
            return record
        record["axe"] += barriers(page, "light")
        page.add_style_tag(content="* { transition: none !important; }")  # else colours are measured half-way
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        record["axe"] += barriers(page, "dark")
    with opened(browser, address, width=390) as (page, wrong):
        record["wrong"] += wrong
        record["axe"] += barriers(page, "light, 390 px")
        record["too_wide"] = page.evaluate(TOO_WIDE)
    return record


def barriers(page, setting):
    """Return what axe finds serious or critical, the theme's own parts of the page included."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{setting}: {found['id']} ({found['impact']}) at {node['target']}: {node['html'][:200]}"
        for found in Axe().run(page, options=AXE).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the pages of a book, built as a reader builds it."""
    build = tmp_path_factory.mktemp("build")
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # kernels choose theirs
    made = subprocess.run(
        [sys.executable, "-m", "beyond_hard_labels", "book", "--profile", "smoke"],
        env={**environment, "BHL_BUILD_DIR": str(build)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return build / "book" / "_build" / "html"


@pytest.fixture(scope="module")
def site(html):
    with served(html) as address:
        yield address


@pytest.fixture(scope="module")
def visits(browser, html, site):
    """Every page of the book, by its path, with what was found there."""
    paths = [path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html"))]
    paths = [path for path in paths if path != "index.html" and not path.startswith("_")]
    assert {"book/intro.html", "notebooks/01_data.html", "search.html"} <= set(paths)
    of_runs = [path for path in paths if path.startswith("runs/")]
    return {path: visit(browser, site + path, briefly=path in of_runs[4:]) for path in paths}


@pytest.mark.parametrize("fault", ["wrong", "unset_maths", "too_wide", "axe"])
def test_pages_load_in_silence_from_this_machine_alone_set_their_maths_fit_a_phone_and_are_accessible(visits, fault):
    found = [f"{path}: {line}" for path, record in visits.items() for line in record[fault]]
    assert not found, "\n" + "\n".join(found)
    assert sum(record["maths"] for record in visits.values()) > 5


def test_every_page_says_what_it_shows_and_has_one_heading_of_the_first_rank(visits):
    assert [path for path, record in visits.items() if not record["badges"] and path not in THEMES_OWN] == []
    assert {path: record["headings"] for path, record in visits.items() if len(record["headings"]) != 1} == {}


def nameless(source, alt):
    """Say whether an image lacks a text; one that only decorates has an empty one."""
    return alt is None or re.search(r"\.(png|svg|jpe?g)$|^[0-9a-f]{16,}", alt) or (alt == "" and "_images" in source)


def test_every_image_has_a_text_in_its_place(visits):
    images = {(path, *image) for path, record in visits.items() for image in record["images"]}
    assert len(images) > 5
    found = [image for image in images if nameless(*image[1:])]
    assert not found, found


def dead(visits, html, site):
    """Return the internal links that lead to no file or to no place in it."""
    found = []
    for path, record in visits.items():
        for address, anchor in map(urldefrag, record["links"]):
            if address.startswith(site):
                target = address.removeprefix(site).partition("?")[0] or "index.html"
                places = visits.get(target, {"ids": []})["ids"]
                if not (html / target).is_file() or (anchor and anchor not in places):
                    found.append(f"{path}: {target}#{anchor}")
    return found


def test_every_internal_link_leads_somewhere(visits, html, site):
    assert dead(visits, html, site) == []


def test_the_first_address_leads_to_the_first_page_and_pages_are_smaller_than_three_megabytes(browser, html, site):
    with opened(browser, site) as (page, wrong):
        page.wait_for_url("**/book/intro.html")
        assert (page.locator("article h1").count(), wrong) == (1, [])
    sizes = {path.name: path.stat().st_size for path in html.rglob("*.html")}
    assert max(sizes.values()) < 3_000_000, sizes


@pytest.mark.parametrize("name", ["02_labels", "05_tsne"])
def test_a_page_works_from_the_disk(browser, html, name):
    with opened(browser, (html / "notebooks" / f"{name}.html").as_uri()) as (page, wrong):
        assert page.evaluate(FACTS)["unset_maths"] == []
        if name == "02_labels":
            assert page.evaluate(FACTS)["maths"] > 0
        else:
            page.locator(".bhl-panel tbody td", has_text=".").first.wait_for()
        assert wrong == []


def test_the_download_button_gives_the_executed_notebook(browser, visits, site):
    chapters = [path for path in visits if path.startswith("notebooks/")]
    for path in chapters:
        with opened(browser, site + path) as (page, _):
            button = page.locator("a.btn-download-source-button")
            answer = page.request.get(button.evaluate("a => a.href"))
            notebook = nbformat.reads(answer.text(), as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), path
        figures = any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
        assert figures == any("_images/" in source for source, _ in visits[path]["images"]), path


def test_search_finds_a_word_without_a_server(browser, site):
    with opened(browser, site + "search.html") as (page, wrong):
        field = page.locator("main input[name=q]")
        field.fill("trustworthiness")
        field.press("Enter")
        page.wait_for_selector("#search-results li a")
        page.wait_for_load_state("networkidle")
        assert "Maps of the feature space" in page.locator("#search-results").inner_text()
        assert wrong == []


def test_hidden_code_opens_by_keyboard_and_its_name_is_what_it_shows(browser, site):
    with opened(browser, site + "notebooks/04_metrics.html") as (page, _):
        toggle = page.get_by_text("Show code cell source").first.locator("xpath=..")
        assert toggle.get_attribute("aria-label") is None
        code = toggle.locator("xpath=../..").locator("pre").first
        assert not code.is_visible()
        toggle.focus()
        page.keyboard.press("Enter")
        assert code.is_visible()


HOSTILE = """import pandas as pd
from beyond_hard_labels.book.notebook import say, show
from beyond_hard_labels.book.tables import text
names = ["<img src=x onerror=alert(1)>", "a|b", "{ref}`role`", "$x$", "`code`"]
show(pd.DataFrame({name: [name] for name in names}))"""


@pytest.mark.filterwarnings("default")
def test_names_from_data_are_text_on_the_page(browser, project, small):
    write(project, "01_one", HOSTILE, "say(f'They are {text(names)}.')")
    page = built(project, small).parent / "notebooks" / "01_one.html"
    with opened(browser, page.as_uri()) as (page, wrong):
        page.on("dialog", lambda _: wrong.append("a script ran"))
        cells = page.locator(".cell_output table td").all_inner_texts()
        assert cells == ["<img src=x onerror=alert(1)>", "a|b", "{ref}`role`", "$x$", "`code`"]
        assert str(cells)[1:-1] in page.locator(".cell_output p").last.inner_text().replace("‘", "'").replace("’", "'")
        assert page.locator("article img").count() == 0
        assert wrong == []


BAD = """<!doctype html><html lang="en"><head><title>t</title><link rel="icon" href="data:,"></head>
<body><main><h1>a</h1><h1>b</h1><span class="math">\\(x</span><img src="gone.png" alt="gone.png">
<p style="color: #ccc; background: #fff">pale</p><div style="width: 900px">wide</div>
<a href="nowhere.html">n</a><a href="#nowhere">n</a><script src="https://example.org/x.js"></script>
<script>console.warn("mind this"); undefinedName()</script></main></body></html>"""


def test_a_bad_page_is_found_out(browser, tmp_path):
    (tmp_path / "bad.html").write_text(BAD)
    with served(tmp_path) as site:
        record = visit(browser, site + "bad.html")
        wrong = "\n".join(record["wrong"])
        for word in ("404: ", "foreign request: https://example.org", "console warning: mind this", "undefinedName"):
            assert word in wrong
        assert len(record["headings"]) == 2
        assert len(record["unset_maths"]) == 1
        assert 'style="width: 900px"' in "\n".join(record["too_wide"])
        assert "color-contrast (serious)" in "\n".join(record["axe"])
        assert nameless(*record["images"][0])
        assert dead({"bad.html": record}, tmp_path, site) == ["bad.html: nowhere.html#", "bad.html: bad.html#nowhere"]
