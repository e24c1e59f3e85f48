"""Interactive pages without a kernel: arrays in, one piece of HTML out that needs no other file.

The maps are drawn by Bokeh, whose script is put into the page; the explorer is an inline SVG. What they do
stands in ``maps.js``, how they look in ``maps.css``; numbers go into the page as binary
arrays in base64, images as one sheet.
"""

import base64
import html
import io
import json
from importlib import resources
from pathlib import Path

import numpy as np

from beyond_hard_labels.book import plots
from beyond_hard_labels.data.images import LabelledImages
from beyond_hard_labels.learn import metrics

CURVES = {  # what a run's history holds of its validation images
    "kl": "KL to soft truth ↓",
    "macro_accuracy": "macro accuracy ↑",
    "loss": "loss against own targets ↓",
}
_SHEET_COLUMNS = 32
_SHEET_SIDES = (64, 48, 32, 24, 16)  # pixels of an image in the sheet; the first that fits
_SHEET_BYTES = 900_000  # with Bokeh's script and the numbers a page stays below 3 MB


def linked_maps(
    data: LabelledImages,
    index: np.ndarray,
    predicted: dict[str, np.ndarray],
    planes: dict[str, np.ndarray],
    *,
    hue: np.ndarray | None = None,
    shape: np.ndarray | None = None,
) -> str:
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
    for plot in _plots(planes, colourings):
        document.add_root(plot)
    sheet, side = image_sheet(data.images[index])
    content = {
        "ids": [data.ids[i] for i in index],
        "classes": data.class_names,
        "arms": list(planes),
        "shares": {name: _packed(np.round(1000 * rows), "<u2") for name, rows in ({"true": truth} | predicted).items()},
        "orders": [_packed(np.argsort(values, kind="stable"), "<u4") for _, _, values, _ in colourings],
        "sheet": sheet,
        "side": side,
        "columns": _SHEET_COLUMNS,
        "document": document.to_json(deferred=False),
    }
    body = _maps_body(list(planes), len(index), colourings, data.class_names)
    bokeh = (Path(bokehjs_path()) / "js" / "bokeh.min.js").read_text("utf-8")
    return _widget(
        "maps", body, content, bokeh, "The linked maps need scripts; the figure and the table show the same."
    )


def _maps_body(arms: list[str], n_images: int, colourings: list[tuple], class_names: tuple[str, ...]) -> str:
    """Return the controls, the places of the maps, and the panel of the image that is looked at."""
    options = "".join(f'<option value="{i}">{name}</option>' for i, (name, *_) in enumerate(colourings))
    legends = "".join(f'<div class="bhl-legend" hidden>{legend}</div>' for *_, legend in colourings)
    figures = "".join(
        f"<figure><figcaption>{arm} labels</figcaption>"
        f'<div class="bhl-map" role="img" aria-label="Map of {arm} labels, {n_images} images"></div></figure>'
        for arm in arms
    )
    columns = ["true", *arms]
    head = "".join(f'<th scope="col">{name}{"" if name == "true" else " labels"}</th>' for name in columns)
    cells = "".join(f'<td style="--bar: {plots.ARM_COLOURS.get(name, "var(--bhl-true)")}"></td>' for name in columns)
    rows = "".join(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>' for name in class_names)
    return f"""<div class="bhl-controls">
<label>Colour and order by <select name="colouring">{options}</select></label>
<label class="bhl-wide">Step through the images
<input type="range" name="step" min="0" max="{n_images - 1}" value="0"></label>
<span role="group" aria-label="Zoom around the chosen image"><button type="button" value="0.5">Closer</button>
<button type="button" value="2">Wider</button> <button type="button" value="0">Whole maps</button></span>
</div>{legends}<div class="bhl-pair">{figures}</div>
<section class="bhl-panel" aria-label="The image that is looked at"><p aria-live="polite"></p>
<div class="bhl-image" role="img"></div>
<table><thead><tr><th scope="col">class</th>{head}</tr></thead><tbody>{rows}</tbody></table></section>"""


def image_sheet(images: np.ndarray) -> tuple[str, int]:
    """Return images (N, C, H, W) uint8 as one data URI, row by row, and the side of one in pixels.

    Images are made smaller until the sheet fits; flat colour stays exact in a PNG, photographs become a
    JPEG.
    """
    from PIL import Image

    n, channels = images.shape[:2]
    rows = -(-n // _SHEET_COLUMNS)
    sides = sorted({min(side, images.shape[-1]) for side in _SHEET_SIDES}, reverse=True)
    for side in sides:
        sheet = Image.new("L" if channels == 1 else "RGB", (_SHEET_COLUMNS * side, rows * side))
        for i, image in enumerate(images):
            small = Image.fromarray(image.transpose(1, 2, 0).squeeze())
            if small.size != (side, side):
                small = small.resize((side, side), Image.Resampling.BOX)
            sheet.paste(small, (i % _SHEET_COLUMNS * side, i // _SHEET_COLUMNS * side))
        kind, content = min(((kind, _encoded(sheet, kind)) for kind in ("png", "jpeg")), key=lambda pair: len(pair[1]))
        if len(content) <= _SHEET_BYTES:
            break
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", side


def _encoded(image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True)
    return buffer.getvalue()


def _packed(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def _colourings(truth, predicted, class_names, hue, shape) -> list[tuple]:
    """Return what points can be coloured by: name, colours (N, 3) per arm, values to order by, legend."""
    from matplotlib import colormaps

    ambiguity = metrics.entropy(truth)
    palette = plots.class_palette(class_names)
    scales = [
        ("hue", "hsv", hue, hue, "0 red, 1/3 green, 2/3 blue"),
        ("shape", "viridis", shape, shape, "0 circle, 1 ellipse"),
        ("ambiguity", "viridis", ambiguity / np.log(truth.shape[1]), ambiguity, "0 sure, 1 every class alike"),
    ]
    made = []
    for name, scale, values, order, ends in scales:
        if values is not None:
            stops = ", ".join(_hex(colormaps[scale](np.linspace(0, 1, 13))[:, :3]))
            legend = f'<i style="background: linear-gradient(to right, {stops})"></i> {name} ({ends})'
            made.append((name, dict.fromkeys(predicted, colormaps[scale](values)[:, :3]), order, legend))
    swatches = " ".join(
        f'<b style="background: {colour}"></b> {html.escape(name)}'
        for name, colour in zip(class_names, _hex(palette), strict=True)
    )
    guess = {arm: rows.argmax(axis=1) for arm, rows in predicted.items()}
    leading = truth.argmax(axis=1) + 1 - truth.max(axis=1)  # class by class, the surest first
    made.append(("true classes, mixed", dict.fromkeys(predicted, truth @ palette), leading, swatches))
    made.append(("predicted class", {arm: palette[classes] for arm, classes in guess.items()}, leading, swatches))
    return made


def _hex(colours: np.ndarray) -> list[str]:
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.round(255 * colours).astype(int)]


def _plots(planes: dict[str, np.ndarray], colourings: list[tuple]) -> list:
    """Return one Bokeh plot an arm; all share one source, so that a selection shows in each."""
    from bokeh.models import ColumnDataSource, Plot, Range1d, Scatter, WheelZoomTool

    columns = {}
    for arm, plane in planes.items():
        columns |= {f"{axis}_{arm}": np.round(plane[:, i], 3).astype(np.float32) for i, axis in enumerate("xy")}
        for number, (_, colours, _, _) in enumerate(colourings):
            red, green, blue = np.round(255 * colours[arm].T).astype(np.uint32)
            columns[f"colour_{arm}_{number}"] = (red << 24) + (green << 16) + (blue << 8) + 255
    source, made = ColumnDataSource(columns), []
    for arm, plane in planes.items():
        low, high = plane.min(axis=0), plane.max(axis=0)
        middle, half = (low + high) / 2, 0.53 * float((high - low).max())
        ranges = [Range1d(float(centre) - half, float(centre) + half) for centre in middle]
        zoom = WheelZoomTool(modifiers="ctrl")  # a plain wheel keeps scrolling the page
        plot = Plot(x_range=ranges[0], y_range=ranges[1], tools=[zoom], toolbar_location=None, min_border=0)
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

    Parameters
    ----------
    runs : list of Run
    command : str
        Options that make the study again; see `study.Study.command`.
    """
    content = {
        "metrics": CURVES,
        "runs": [
            {
                "labels": run.spec.labels,
                "split": run.spec.split,
                "command": f"bhl run --dataset {run.spec.dataset} --labels {run.spec.labels} "
                f"--split {run.spec.split} --epoch EPOCH {command}",
            }
            # As the command prints them: no rounding in the browser that could differ in the last digit.
            | {name: [f"{value:.4f}" for value in run.history[name]] for name in CURVES}
            for run in runs
        ],
        "colours": plots.ARM_COLOURS,
    }
    epochs, splits = runs[0].spec.epochs, sorted({run.spec.split for run in runs})

    def select(label: str, name: str, choices: dict) -> str:
        options = "".join(f'<option value="{value}">{text}</option>' for value, text in choices.items())
        return f'<label>{label} <select name="{name}">{options}</select></label>'

    body = f"""<form class="bhl-controls">
{select("Labels", "labels", {"both": "both", "hard": "hard", "soft": "soft"})}
{select("Split", "split", {"all": "all"} | {split: split for split in splits})}
{select("Metric", "metric", CURVES)}
<label class="bhl-wide">Epoch <output></output>
<input type="range" name="epoch" min="1" max="{epochs}" value="{epochs}"></label></form>
<svg role="img"></svg>
<table><thead><tr><th scope="col">labels</th><th scope="col">split</th><th scope="col" data-value></th>
<th scope="col">command that prints it</th></tr></thead><tbody></tbody></table>
<p role="status"></p>"""
    return _widget("explorer", body, content, "", "The knobs need scripts; the table below holds the last epoch.")


def _widget(name: str, body: str, content: dict, library: str, without: str) -> str:
    """Return a part of a page that a script of ours brings to life; hidden where no script runs."""
    code, style = (
        resources.files("beyond_hard_labels.book").joinpath(f"maps.{kind}").read_text("utf-8") for kind in ("js", "css")
    )
    packed = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    scripts = "".join(f"<script>{script}</script>\n" for script in (library, code) if script)
    return f"""<div class="bhl" data-widget="{name}"><style>{style}</style>
<noscript><p>{without}</p></noscript><div class="bhl-live" hidden>{body}</div>
<script type="application/json">{packed}</script>
{scripts}</div>"""
