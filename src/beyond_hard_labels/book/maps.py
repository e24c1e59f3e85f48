"""Interactive pages without a kernel: arrays in, one piece of HTML out that needs no other file.

The maps are drawn by Bokeh, whose script is put into the page; the explorer is an inline SVG. What they hold stands
in ``maps.html``, what they do in ``maps.js``, how they look in ``maps.css``; numbers go into the page as binary
arrays in base64, images as one sheet.
"""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from beyond_hard_labels.book import plots
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.learn import metrics

CURVES = {  # what a run's history holds of its validation images
    "kl": "KL to soft truth ↓",
    "macro_accuracy": "macro accuracy ↑",
    "loss": "loss against own targets ↓",
}
Arms = dict[str, np.ndarray]  # an array each for hard and soft
_SHEET_COLUMNS = 32
_SHEET_SIDES = (64, 48, 32, 24, 16)  # pixels of an image in the sheet; the first that fits
_SHEET_BYTES = 900_000  # with Bokeh's script and the numbers a page stays below 3 MB


def linked_maps(data: LabelledImages, index: np.ndarray, predicted: Arms, planes: Arms, *, hue=None, shape=None) -> str:
    """Return the maps of both arms as HTML: the same image lights up in both, with its distributions.

    Parameters
    ----------
    data : LabelledImages
    index : np.ndarray
        Rows of the images on the maps (N,).
    predicted, planes : dict of str to np.ndarray
        Per arm the predicted distributions (N, K) and the positions on its map (N, 2).
    hue, shape : np.ndarray, optional
        Positions (N,) in [0, 1] to colour by, where the set has them.
    """
    from bokeh.document import Document
    from bokeh.util.paths import bokehjs_path

    truth = data.truth[index]
    colourings = _colourings(truth, predicted, data.class_names, hue, shape)
    document = Document()
    for plot in _plots(planes, [colours for colours, _, _ in colourings.values()]):
        document.add_root(plot)
    sheet, side = image_sheet(data.images[index])
    content = {
        "ids": [data.ids[i] for i in index],
        "classes": data.class_names,
        "arms": list(planes),
        "shares": {name: _packed(np.round(1000 * rows), "<u2") for name, rows in ({"true": truth} | predicted).items()},
        "orders": [_packed(np.argsort(values, kind="stable"), "<u4") for _, values, _ in colourings.values()],
        "sheet": sheet,
        "side": side,
        "columns": _SHEET_COLUMNS,
        "document": document.to_json(deferred=False),
    }
    bokeh = (Path(bokehjs_path()) / "js" / "bokeh.min.js").read_text("utf-8")
    without = "The linked maps need scripts; the figure and the table show the same."
    return _widget("maps", content, without, bokeh, colourings=colourings, arms=plots.ARM_COLOURS)


def image_sheet(images: np.ndarray) -> tuple[str, int]:
    """Return images (N, C, H, W) uint8 as one data URI, row by row, and the side of one in pixels.

    Images are made smaller until the sheet fits; flat colour stays exact in a PNG, photographs become a
    JPEG.
    """
    from PIL import Image

    n, channels, height, width = images.shape
    rows = -(-n // _SHEET_COLUMNS)
    tiles = np.zeros((rows * _SHEET_COLUMNS, channels, height, width), np.uint8)
    tiles[:n] = images
    tiles = tiles.reshape(rows, _SHEET_COLUMNS, channels, height, width).transpose(0, 3, 1, 4, 2)
    tiles = tiles.reshape(rows * height, _SHEET_COLUMNS * width, channels)
    whole = Image.fromarray(tiles[:, :, 0] if channels == 1 else tiles)
    for side in sorted({min(side, width) for side in _SHEET_SIDES}, reverse=True):
        sheet = whole.resize((_SHEET_COLUMNS * side, rows * side), Image.Resampling.BOX)
        made = {}
        for kind in ("png", "jpeg"):
            sheet.save(buffer := io.BytesIO(), kind, optimize=True)
            made[kind] = buffer.getvalue()
        kind, content = min(made.items(), key=lambda pair: len(pair[1]))
        if len(content) <= _SHEET_BYTES:
            break
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", side


def _packed(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def _colourings(truth, predicted, class_names, hue, shape) -> dict[str, tuple]:
    """Return what points can be coloured by, by name: colours (N, 3) per arm, values to order by, legend."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    ambiguity, palette = metrics.entropy(truth), plots.class_palette(class_names)
    made = {}
    for name, scale, values, ends in [
        ("hue", "hsv", hue, "0 red, 1/3 green, 2/3 blue"),
        ("shape", "viridis", shape, "0 circle, 1 ellipse"),
        ("ambiguity", "viridis", ambiguity / np.log(truth.shape[1]), "0 sure, 1 every class alike"),
    ]:
        if values is not None:
            legend = {
                "stops": [to_hex(colour) for colour in colormaps[scale](np.linspace(0, 1, 13))],
                "words": f"{name} ({ends})",
            }
            made[name] = dict.fromkeys(predicted, colormaps[scale](values)[:, :3]), values, legend
    swatches = {"swatches": list(zip(map(to_hex, palette), class_names, strict=True))}
    leading = truth.argmax(axis=1) + 1 - truth.max(axis=1)  # class by class, the surest first
    made["true classes, mixed"] = dict.fromkeys(predicted, truth @ palette), leading, swatches
    guessed = {arm: palette[rows.argmax(axis=1)] for arm, rows in predicted.items()}
    return made | {"predicted class": (guessed, leading, swatches)}


def _plots(planes: Arms, colourings: list[Arms]) -> list:
    """Return one Bokeh plot an arm; all share one source, so that a selection shows in each."""
    from bokeh.models import ColumnDataSource, Plot, Range1d, Scatter, WheelZoomTool

    columns = {}
    for arm, plane in planes.items():
        columns |= {f"{axis}_{arm}": np.round(plane[:, i], 3).astype(np.float32) for i, axis in enumerate("xy")}
        for number, colours in enumerate(colourings):
            red, green, blue = np.round(255 * colours[arm].T).astype(np.uint32)
            columns[f"colour_{arm}_{number}"] = (red << 24) + (green << 16) + (blue << 8) + 255
    source, made = ColumnDataSource(columns), []
    for arm, plane in planes.items():
        low, high = plane.min(axis=0), plane.max(axis=0)
        middle, half = (low + high) / 2, 0.53 * float((high - low).max())
        x_range, y_range = (Range1d(float(centre) - half, float(centre) + half) for centre in middle)
        zoom = WheelZoomTool(modifiers="ctrl")  # a plain wheel keeps scrolling the page
        plot = Plot(x_range=x_range, y_range=y_range, tools=[zoom], toolbar_location=None, min_border=0)
        plot.toolbar.active_scroll = zoom
        plot.update(sizing_mode="stretch_width", aspect_ratio=1, outline_line_color=None, name=arm)
        place = {"x": f"x_{arm}", "y": f"y_{arm}", "fill_color": f"colour_{arm}_0"}
        point = Scatter(size=5, line_color=None, **place)
        chosen = Scatter(size=18, line_color="black", line_width=3, **place)
        plot.add_glyph(source, point, selection_glyph=chosen, nonselection_glyph=point)
        made.append(plot)
    return made


def explorer(runs: list, command: str) -> str:
    """Return the learning curves of runs as HTML, to choose from, with the command behind each value.

    The command's options are those that make the study again, see `study.Study.command`.
    """
    content = {"metrics": CURVES, "runs": [], "colours": plots.ARM_COLOURS}
    for run in runs:
        which = {"labels": run.spec.labels, "split": run.spec.split}
        found = f"bhl run --dataset {run.spec.dataset} --labels {run.spec.labels} --split {run.spec.split}"
        # As the command prints them: no rounding in the browser that could differ in the last digit.
        values = {name: [f"{value:.4f}" for value in run.history[name]] for name in CURVES}
        content["runs"].append(which | values | {"command": f"{found} --epoch EPOCH {command}"})
    splits = ["all", *sorted({run.spec.split for run in runs})]
    without = "The knobs need scripts; the table below holds the last epoch."
    return _widget("explorer", content, without, splits=splits, epochs=runs[0].spec.epochs)


def _widget(name: str, content: dict, without_scripts: str, *libraries: str, **context: Any) -> str:
    """Return a part of a page that a script of ours brings to life; hidden where no script runs."""
    part = {kind: Path(__file__).with_suffix(f".{kind}").read_text("utf-8") for kind in ("html", "js", "css")}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    context |= {"widget": name, "content": content, "without_scripts": without_scripts, "style": part["css"]}
    return environment.from_string(part["html"]).render(context, scripts=[*libraries, part["js"]])
