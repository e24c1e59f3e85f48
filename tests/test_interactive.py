import base64
import io
import json
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_hard_labels.base import paths
from beyond_hard_labels.book import maps, plots
from beyond_hard_labels.data import shapes
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs import execute, fresh, store, study
from conftest import ROOT, TINY, set_options

ARMS = ("hard", "soft")


@pytest.fixture
def visit(browser):
    """Return a function that opens a file and watches it: no foreign request, no error in the console."""
    faults, contexts = [], []

    def see(message):
        faults.append(str(message))

    def open_page(path, *, fragment="", **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1000, "height": 1200}, **options}))
        page = contexts[-1].new_page()
        page.on("pageerror", see)
        page.on("console", lambda message: see(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda sent: None if sent.url.startswith(("file://", "data:", "blob:")) else see(sent.url))
        page.goto(f"file://{path}{fragment}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def written(path, *parts, style=""):
    """Write a whole page around parts of one, and return its path."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Test</title>'
    body = f"<main><h1>Test</h1>{''.join(parts)}</main>"
    path.write_text(
        f'<!doctype html><html lang="en"><head>{head}<style>{style}</style></head><body>{body}</body></html>'
    )
    return path


def content_of(page_part):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page_part, re.S)[1])


def arms_of(n, k, seed=0):
    """Random predictions, and places on maps that keep every two points well apart."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[:n] * 7.0
    predicted = {arm: rng.dirichlet(np.full(k, 0.4), n) for arm in ARMS}
    return predicted, {arm: rng.permutation(grid) + rng.uniform(-1, 1, (n, 2)) for arm in ARMS}


def synthetic(n, size=32):
    table = shapes.draw_parameters(n, 0)
    positions = {"hue": table["hue"].to_numpy(), "shape": table["shape"].to_numpy()}
    return shapes.synthetic(n, size, 0), positions


def photographs(n, size, channels, k=10):
    """Noise, which no format packs well, with many classes and no hue."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    truth = rng.dirichlet(np.ones(k), n)
    names = tuple(f"class <{i}>" for i in range(k))
    return LabelledImages("noise", images, truth / truth.sum(axis=1, keepdims=True), names, tuple(map(str, range(n))))


def test_three_thousand_images_fit_into_a_page_that_loads_no_part_from_anywhere():
    data, positions = synthetic(3000)
    made = maps.linked_maps(data, np.arange(3000), *arms_of(3000, 6), **positions)
    assert len(made.encode()) < 2_500_000
    ours = re.sub(r"<script>.*?</script>", "", made, flags=re.S)
    assert not re.search(r"https?://|\b(?:src|href)=", ours)
    assert not re.search(r"<script[^>]+src|@import", made)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_images_that_pack_badly_or_are_large_are_made_smaller(channels):
    data = photographs(2500, 48, channels)
    made = maps.linked_maps(data, np.arange(2500), *arms_of(2500, 10))
    assert content_of(made)["side"] < 48
    assert len(made.encode()) < 3_000_000
    assert maps.image_sheet(photographs(3, 224, channels).images)[1] == 64


def test_a_sheet_of_flat_images_is_exact_and_in_order():
    data, _ = synthetic(70, 24)
    uri, side = maps.image_sheet(data.images)
    kind, content = uri.split(";base64,")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert (kind, side) == ("data:image/png", 24)
    for i, image in enumerate(data.images):
        top, left = i // 32 * 24, i % 32 * 24
        assert np.array_equal(sheet[top : top + 24, left : left + 24], image.transpose(1, 2, 0)), i


def test_classes_have_colours_of_their_own_and_those_of_the_set_are_its_hues():
    palette = plots.class_palette(shapes.CLASS_NAMES)
    assert palette.argmax(axis=1).tolist() == [2, 2, 1, 1, 0, 0]
    for names in (shapes.CLASS_NAMES, tuple(map(str, range(10)))):
        assert len(np.unique(plots.class_palette(names).round(2), axis=0)) == len(names)


def test_the_circle_shows_each_hue_at_its_angle():
    hues = np.linspace(0, 1, 12, endpoint=False)
    figure = plots.hue_circle(
        shapes.render(shapes.interpolation_grid(hues, np.array([0.0, 1.0])), 48), hues, [0.0, 1.0]
    )
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3]  # from the bottom, as the transform counts
    for hue, colour in zip(hues, shapes.hue_to_rgb(hues), strict=True):
        x, y = (
            figure.axes[0].transData.transform([np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)]).round().astype(int)
        )
        assert np.abs(pixels[y, x] - 255 * colour).max() <= 1, hue


@pytest.mark.parametrize("part", ["maps.js", "maps.css", "maps.html", "maps.py"])
def test_an_edited_script_or_style_counts_as_changed_code(tmp_path, monkeypatch, part):
    for kind in ("js", "css", "html", "py"):
        shutil.copy(ROOT / "src" / "beyond_hard_labels" / "book" / f"maps.{kind}", tmp_path)
    monkeypatch.setattr(fresh, "_path", lambda module: tmp_path / "maps.py")
    before = fresh.code_fingerprint("book.maps")
    with (tmp_path / part).open("a") as file:
        file.write("\nx = 1\n")
    assert fresh.code_fingerprint("book.maps") != before


def eventually(page, check):
    """Whether a check comes true; pages draw when the browser finds time."""
    for _ in range(50):
        if check():
            return True
        page.wait_for_timeout(100)
    return False


class Maps:
    """The linked maps of few images in a page, and where on the screen a point should be."""

    def __init__(self, tmp_path, data, index, positions):
        self.data, self.index, self.positions = data, index, positions
        self.predicted, self.planes = arms_of(len(index), len(data.class_names))
        part = maps.linked_maps(data, index, self.predicted, self.planes, **positions)
        self.path = written(tmp_path / "maps.html", part)

    def ready(self, page):
        page.locator(".bhl[data-looked]").wait_for()
        return page

    def place(self, page, arm, i):
        """Where point i lies on the screen, worked out from the arrays; without one, the middle of the map."""
        plane = self.planes[arm]
        low, high = plane.min(axis=0), plane.max(axis=0)
        x, y = (0, 0) if i is None else (plane[i] - (low + high) / 2) / (0.53 * (high - low).max())  # in [-1, 1]
        box = page.locator(".bhl-map").nth(ARMS.index(arm)).bounding_box()
        return box["x"] + box["width"] * (1 + x) / 2, box["y"] + box["height"] * (1 - y) / 2

    def shows(self, page, i):
        """Whether the panel comes to show this image with its distributions."""
        expected = np.stack([self.data.truth[self.index][i], *(self.predicted[arm][i] for arm in ARMS)], axis=1)

        def shown():
            line = page.locator(".bhl-panel [aria-live]").inner_text()
            cells = [row.locator("td").all_inner_texts() for row in page.locator(".bhl-panel tbody tr").all()]
            found = np.abs(np.array(cells, float) - expected).max()
            return line.startswith(f"{self.data.ids[self.index[i]]}:") and found < 0.00051

        return eventually(page, shown)

    def rings(self, page, *places):
        """Around which of some points a ring is drawn, on both maps."""
        pixels, found = pixels_of(page).mean(axis=2), []
        for arm in ARMS:
            for i in places:
                x, y = self.place(page, arm, i)
                around = ((9, 0), (-9, 0), (0, 9), (0, -9))
                if max(pixels[round(y + dy), round(x + dx)] for dx, dy in around) < 100:
                    found.append((arm, i))
        return found

    def lights_up(self, page, i):
        """Whether a ring comes to be drawn around this point on both maps, and around no other."""
        everywhere = range(len(self.index))
        return eventually(page, lambda: self.rings(page, *everywhere) == [(arm, i) for arm in ARMS])


def pixels_of(part):
    return np.asarray(Image.open(io.BytesIO(part.screenshot())).convert("RGB")).astype(int)


@pytest.fixture
def linked(tmp_path):
    data, positions = synthetic(60)
    index = np.arange(5, 54)
    return Maps(tmp_path, data, index, {name: values[index] for name, values in positions.items()})


def test_pointing_at_an_image_shows_it_on_both_maps_and_a_click_keeps_it(visit, linked):
    page = linked.ready(visit(linked.path))
    for arm, i in (("hard", 3), ("soft", 31), ("soft", 48)):
        page.mouse.move(*linked.place(page, arm, i))
        assert linked.shows(page, i)
        assert linked.lights_up(page, i)
    page.mouse.click(*linked.place(page, "soft", 7))
    page.mouse.move(*linked.place(page, "hard", 20))
    assert linked.shows(page, 20)
    page.mouse.move(2, 2)
    assert linked.shows(page, 7)
    shown = pixels_of(page.locator(".bhl-image"))
    assert np.array_equal(shown[2:128:4, 2:128:4], linked.data.images[linked.index[7]].transpose(1, 2, 0))


def test_the_keyboard_reaches_every_control_and_steps_around_the_hue(visit, linked):
    page = linked.ready(visit(linked.path))
    order = np.argsort(linked.positions["hue"], kind="stable")
    assert linked.shows(page, order[0])
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", stops
    assert stops == ["colouring", "step", "Closer", "Wider", "Whole maps"]
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.closest('.bhl')")
    slider = page.get_by_label("Step through the images")
    for key, expected in (("ArrowRight", order[1]), ("ArrowRight", order[2]), ("End", order[-1])):
        slider.press(key)
        assert linked.shows(page, expected)
    assert slider.get_attribute("aria-valuetext") == f"49 of 49, {linked.data.ids[linked.index[order[-1]]]}"


def test_another_colour_is_another_order_and_each_map_shows_its_own_predictions(visit, linked):
    page = linked.ready(visit(linked.path))
    page.mouse.click(*linked.place(page, "hard", 11))
    page.get_by_label("Colour and order by").select_option("predicted class")
    palette = 255 * plots.class_palette(linked.data.class_names)

    def coloured_by_own_prediction():
        pixels, right = pixels_of(page), []
        for arm in ARMS:
            places = [linked.place(page, arm, i) for i in range(len(linked.index))]
            shown = np.stack([pixels[round(y), round(x)] for x, y in places])
            nearest = np.abs(shown[:, None] - palette).max(axis=2).argmin(axis=1)
            right.append(np.array_equal(nearest, linked.predicted[arm].argmax(axis=1)))
        return all(right)

    assert eventually(page, coloured_by_own_prediction)
    assert linked.shows(page, 11)
    page.get_by_label("Colour and order by").select_option("ambiguity")
    page.get_by_label("Step through the images").press("Home")
    assert linked.shows(page, metrics.entropy(linked.data.truth[linked.index]).argmin())


def test_closer_brings_the_chosen_image_to_the_middle_of_both_maps_and_back(visit, linked):
    page = linked.ready(visit(linked.path))
    page.mouse.click(*linked.place(page, "hard", 30))
    page.mouse.move(2, 2)
    assert linked.lights_up(page, 30)

    def ringed_in_the_middle():
        return len(linked.rings(page, None)) == 2

    assert not ringed_in_the_middle()
    page.get_by_role("button", name="Closer").click()
    assert eventually(page, ringed_in_the_middle)
    page.get_by_role("button", name="Whole maps").click()
    assert linked.lights_up(page, 30)


def test_a_phone_stacks_the_maps_scrolls_only_down_and_takes_a_tap(visit, linked):
    page = linked.ready(visit(linked.path, viewport={"width": 390, "height": 1400}, has_touch=True, is_mobile=True))
    first, second = (page.locator(".bhl-map").nth(i).bounding_box() for i in (0, 1))
    assert second["y"] >= first["y"] + first["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.touchscreen.tap(*linked.place(page, "soft", 25))
    assert linked.shows(page, 25)


def test_a_set_without_hues_in_grey_is_explored_by_its_classes(visit, tmp_path):
    linked = Maps(tmp_path, photographs(30, 80, 1), np.arange(30), {})
    page = linked.ready(visit(linked.path))
    offered = page.get_by_label("Colour and order by").locator("option").all_inner_texts()
    assert offered == ["ambiguity", "true classes, mixed", "predicted class"]
    page.mouse.move(*linked.place(page, "hard", 12))
    assert linked.shows(page, 12)
    assert page.locator(".bhl-panel tbody th").first.inner_text() == "class <0>"


def grave(page):
    """What axe finds that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    # Without `preload` axe does not ask for style sheets by a request that file:// forbids.
    found = Axe().run(page, context=".bhl", options={"preload": False}).response["violations"]
    return [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]


DARK = "html { color-scheme: dark; --pst-color-surface: #29313d; background: #121212; color: #ced6dd; }"


@pytest.mark.parametrize("style", ["", DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["maps", "explorer"])
def test_axe_finds_no_serious_fault(visit, linked, tmp_path, trained, kind, style):
    path = linked.path if kind == "maps" else explore(tmp_path, trained, 2)[1]
    path.write_text(path.read_text().replace("<style>", f"<style>{style}", 1))
    page = visit(path)
    page.locator(".bhl tbody td").first.wait_for()
    assert grave(page) == []
    page.evaluate(
        "document.querySelector('.bhl input').parentElement.replaceWith(document.querySelector('.bhl input'))"
    )
    assert [name for name, _ in grave(page)] == ["label"]  # of a nameless control


def test_without_scripts_a_sentence_stands_in_for_what_cannot_work(visit, linked, tmp_path, trained):
    _, knobs = explore(tmp_path, trained, 1)
    for path, sentence in ((linked.path, "The linked maps need scripts"), (knobs, "The knobs need scripts")):
        page = visit(path, java_script_enabled=False)
        assert page.locator("noscript p").is_visible()
        assert sentence in page.locator("noscript p").inner_text()
        assert not page.locator(".bhl-live").is_visible()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The runs of three splits, trained once for all tests here."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHL_BUILD_DIR", str(folder))
        for spec in study.plan("smoke", **(TINY | {"splits": 3})).specs():
            execute.execute(spec)
    return folder / "runs"


def explore(tmp_path, trained, splits):
    """The finished runs of a study, and the page to explore them."""
    shutil.copytree(trained, paths.build_folder() / "runs")
    small = study.plan("smoke", **(TINY | {"splits": splits}))
    found = [store.find(spec) for spec in small.specs()]
    return found, written(tmp_path / "explorer.html", maps.explorer(found, small.command))


@pytest.fixture(params=[1, 3], ids=["one split", "three splits"])
def explored(request, tmp_path, trained):
    return explore(tmp_path, trained, request.param)


def rows_of(page):
    return [row.locator("td").all_inner_texts() for row in page.locator(".bhl tbody tr").all()]


def test_the_copied_command_prints_the_shown_value(visit, explored, bhl):
    found, path = explored
    page = visit(path, permissions=["clipboard-read", "clipboard-write"])
    split = found[-1].spec.split
    for labels, metric, epoch in (("soft", "kl", 1), ("hard", "macro_accuracy", 2)):
        page.locator("[name=labels]").select_option(labels)
        page.locator("[name=split]").select_option(str(split))
        page.locator("[name=metric]").select_option(metric)
        page.locator("[name=epoch]").fill(str(epoch))
        ((shown_labels, shown_split, value, text),) = rows_of(page)
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("Copied.").wait_for()
        command = page.evaluate("navigator.clipboard.readText()")
        assert text.startswith(command)
        assert (shown_labels, shown_split) == (labels, str(split))
        program, *arguments = shlex.split(command)
        assert program == "bhl"
        printed = dict(line.split() for line in bhl(*arguments).stdout.splitlines()[1:])
        assert printed[metric] == value
        made = json.loads(bhl(*arguments, "--json").stdout)
        assert (made["epoch"], made["trained"]) == (epoch, False)
        assert f"{made['validation'][metric]:.4f}" == value


def test_the_chosen_runs_stand_out_and_the_address_keeps_what_was_chosen(visit, explored):
    found, path = explored
    page = visit(path)
    rows = pd.DataFrame(rows_of(page))  # first what the table of the last epoch shows
    assert rows[2].tolist() == [f"{run.history['kl'].iloc[-1]:.4f}" for run in found]
    assert rows[0].tolist() == [run.spec.labels for run in found]
    assert page.locator("polyline.bhl-strong").count() == len(found)
    for knob, value in (("labels", "soft"), ("split", "0"), ("metric", "loss")):
        page.locator(f"[name={knob}]").select_option(value)
    page.locator("[name=epoch]").fill("1")
    assert [row[:2] for row in rows_of(page)] == [["soft", "0"]]
    assert page.locator("polyline.bhl-strong").count() == page.locator("circle").count() == 1
    assert page.locator("polyline.bhl-faint").count() == len(found) - 1
    again = visit(path, fragment=page.url[page.url.index("#") :])
    assert rows_of(again) == rows_of(page)
    strange = visit(path, fragment="#labels=fuzzy&split=99&epoch=abc&metric=kl&toString=1")
    assert len(rows_of(strange)) == len(found)


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_that_was_not_trained_is_refused_before_anything_is_trained(bhl, epoch):
    arguments = ("run", "--dataset", "synthetic", "--labels", "soft", "--split", 0, "--epoch", epoch)
    done = bhl(*arguments, "--profile", "smoke", *set_options(**TINY))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--epoch is {epoch}, expected 1 to 2" in done.stderr
    assert not (paths.build_folder() / "runs").exists()
