import base64
import gzip
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


def nested(part):
    """Every mapping in a JSON document."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from nested(inner)


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


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


def test_three_thousand_images_fit_into_a_page():
    data, positions = synthetic(3000)
    made = maps.linked_maps(data, np.arange(3000), *arms_of(3000, 6), **positions)
    assert len(made.encode()) < 2_500_000


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_images_that_pack_badly_are_made_smaller_until_they_fit(channels):
    data = photographs(2500, 48, channels)
    made = maps.linked_maps(data, np.arange(2500), *arms_of(2500, 10))
    assert content_of(made)["side"] < 48
    assert len(made.encode()) < 3_000_000


def test_every_point_is_in_the_page_with_its_distributions_and_its_places():
    data, positions = synthetic(200)
    index = np.arange(150, 30, -1)
    predicted, planes = arms_of(len(index), 6)
    made = maps.linked_maps(data, index, predicted, planes, **{k: v[index] for k, v in positions.items()})
    content = content_of(made)
    assert content["ids"] == [data.ids[i] for i in index]
    for name, rows in {"true": data.truth[index], **predicted}.items():
        shares = unpacked(content["shares"][name], "<u2").reshape(-1, 6) / 1000
        assert np.abs(shares - rows).max() <= 0.0005 + 1e-12
    (source,) = (part for part in nested(content["document"]) if part.get("name") == "ColumnDataSource")
    columns = dict(source["attributes"]["data"]["entries"])
    for arm, plane in planes.items():
        for axis, expected in zip("xy", plane.T, strict=True):
            packed = gzip.decompress(base64.b64decode(columns[f"{axis}_{arm}"]["array"]["data"]))  # as Bokeh packs
            assert np.abs(np.frombuffer(packed, "<f4") - expected).max() < 0.00051
    for text in content["orders"]:
        assert sorted(unpacked(text, "<u4")) == list(range(len(index)))
    assert np.all(np.diff(positions["hue"][index][unpacked(content["orders"][0], "<u4")]) >= 0)


def test_a_sheet_of_flat_images_is_exact_and_in_order():
    data, _ = synthetic(70, 24)
    uri, side = maps.image_sheet(data.images)
    kind, content = uri.split(";base64,")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert (kind, side) == ("data:image/png", 24)
    for i, image in enumerate(data.images):
        top, left = i // 32 * 24, i % 32 * 24
        assert np.array_equal(sheet[top : top + 24, left : left + 24], image.transpose(1, 2, 0)), i


def test_large_images_are_shown_smaller():
    uri, side = maps.image_sheet(shapes.synthetic(3, 224, 0).images)
    assert side == 64
    assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == (32 * 64, 64)


def test_no_part_is_loaded_from_anywhere():
    data, positions = synthetic(20)
    made = maps.linked_maps(data, np.arange(20), *arms_of(20, 6), **positions)
    ours = re.sub(r"<script>.*?</script>", "", made, flags=re.S)
    assert not re.search(r"https?://|\b(?:src|href)=", ours)
    assert not re.search(r"<script[^>]+src|@import", made)


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


@pytest.mark.parametrize("part", ["maps.js", "maps.css", "maps.py"])
def test_an_edited_script_or_style_counts_as_changed_code(tmp_path, monkeypatch, part):
    for kind in ("js", "css", "py"):
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
        """Where point i lies on the screen, worked out from the arrays."""
        plane = self.planes[arm]
        low, high = plane.min(axis=0), plane.max(axis=0)
        half = 0.53 * (high - low).max()
        x, y = (plane[i] - (low + high) / 2) / half  # in [-1, 1]
        box = page.locator(".bhl-map").nth(ARMS.index(arm)).bounding_box()
        return box["x"] + box["width"] * (1 + x) / 2, box["y"] + box["height"] * (1 - y) / 2

    def panel(self, page):
        line = page.locator(".bhl-panel [aria-live]").inner_text()
        cells = [row.locator("td").all_inner_texts() for row in page.locator(".bhl-panel tbody tr").all()]
        return line, np.array(cells, float)

    def shows(self, page, i):
        return eventually(page, lambda: self._shows(page, i))

    def _shows(self, page, i):
        line, cells = self.panel(page)
        expected = np.stack([self.data.truth[self.index][i], *(self.predicted[arm][i] for arm in ARMS)], axis=1)
        return line.startswith(f"{self.data.ids[self.index[i]]}:") and np.abs(cells - expected).max() < 0.00051

    def lights_up(self, page, i):
        """Whether a ring comes to be drawn around this point on both maps, and around no other."""
        return eventually(page, lambda: [self._lit(page, arm) for arm in ARMS] == [[i], [i]])

    def _lit(self, page, arm):
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L")).astype(int)
        found = []
        for i in range(len(self.index)):
            x, y = self.place(page, arm, i)
            ring = [pixels[round(y + 9 * dy), round(x + 9 * dx)] for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
            if max(ring) < 100:
                found.append(i)
        return found


@pytest.fixture
def linked(tmp_path):
    data, positions = synthetic(60)
    index = np.arange(5, 54)
    return Maps(tmp_path, data, index, {name: values[index] for name, values in positions.items()})


@pytest.mark.parametrize("arm", ARMS)
def test_pointing_at_an_image_shows_it_and_lights_it_up_on_both_maps(visit, linked, arm):
    page = linked.ready(visit(linked.path))
    for i in (3, 31, 48):
        page.mouse.move(*linked.place(page, arm, i))
        assert linked.shows(page, i)
        assert linked.lights_up(page, i)


def test_a_click_keeps_an_image_and_pointing_elsewhere_only_looks(visit, linked):
    page = linked.ready(visit(linked.path))
    page.mouse.click(*linked.place(page, "soft", 7))
    page.mouse.move(*linked.place(page, "hard", 20))
    assert linked.shows(page, 20)
    page.mouse.move(2, 2)
    assert linked.shows(page, 7)


def test_the_panel_shows_the_pixels_of_the_image(visit, linked):
    page = linked.ready(visit(linked.path))
    page.mouse.click(*linked.place(page, "hard", 40))
    shown = np.asarray(Image.open(io.BytesIO(page.locator(".bhl-image").screenshot())).convert("RGB"))
    assert np.array_equal(shown[2:128:4, 2:128:4], linked.data.images[linked.index[40]].transpose(1, 2, 0))


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
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)
        for arm in ARMS:
            places = [linked.place(page, arm, i) for i in range(len(linked.index))]
            shown = np.stack([pixels[round(y), round(x)] for x, y in places])
            nearest = np.abs(shown[:, None] - palette).max(axis=2).argmin(axis=1)
            if not np.array_equal(nearest, linked.predicted[arm].argmax(axis=1)):
                return False
        return True

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
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
        for arm in ARMS:
            box = page.locator(".bhl-map").nth(ARMS.index(arm)).bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            if max(pixels[round(y), round(x + d)] for d in (-9, 9)) >= 100:
                return False
        return True

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


def test_axe_would_find_a_nameless_control(visit, linked):
    page = linked.ready(visit(linked.path))
    page.evaluate("document.querySelector('[role=group] button').textContent = ''")
    assert [name for name, _ in grave(page)] == ["button-name"]


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


def test_the_chosen_runs_stand_out_and_the_others_stay_faint(visit, explored):
    found, path = explored
    page = visit(path)
    assert len(rows_of(page)) == len(found) == page.locator("polyline.bhl-strong").count()
    page.locator("[name=labels]").select_option("soft")
    page.locator("[name=split]").select_option("0")
    assert [row[:2] for row in rows_of(page)] == [["soft", "0"]]
    assert page.locator("polyline.bhl-strong").count() == page.locator("circle").count() == 1
    assert page.locator("polyline.bhl-faint").count() == len(found) - 1


def test_the_address_keeps_what_was_chosen_and_strange_ones_do_no_harm(visit, explored):
    _, path = explored
    page = visit(path)
    page.locator("[name=metric]").select_option("loss")
    page.locator("[name=labels]").select_option("hard")
    page.locator("[name=epoch]").fill("1")
    before = rows_of(page)
    again = visit(path, fragment=page.url[page.url.index("#") :])
    assert rows_of(again) == before
    strange = visit(path, fragment="#labels=fuzzy&split=99&epoch=abc&metric=kl&toString=1")
    assert len(rows_of(strange)) == len(explored[0])


def test_the_table_of_the_last_epoch_is_what_the_knobs_show_first(visit, explored):
    found, path = explored
    shown = pd.DataFrame(rows_of(visit(path)))
    assert shown[2].tolist() == [f"{run.history['kl'].iloc[-1]:.4f}" for run in found]
    assert shown[0].tolist() == [run.spec.labels for run in found]


@pytest.mark.parametrize("epoch", [0, 3, -1])
def test_an_epoch_that_was_not_trained_is_refused_before_anything_is_trained(bhl, epoch):
    arguments = ("run", "--dataset", "synthetic", "--labels", "soft", "--split", 0, "--epoch", epoch)
    done = bhl(*arguments, "--profile", "smoke", *set_options(**TINY))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--epoch is {epoch}, expected 1 to 2" in done.stderr
    assert not (paths.build_folder() / "runs").exists()
