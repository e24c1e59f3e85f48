"""Rows on data: drawing images, counting votes, reading an archive."""

import hashlib
import io
import json
import os
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from benchmarks.harness import Line, Result, cores, functions_of_ours, in_turn, require
from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data import fetch, shapes
from beyond_hard_labels.data import own as sets_of_users
from beyond_hard_labels.data import votes as labels_of_votes

CHUNK = 1000  # images in memory at a time
SIDE, CLASSES = 224, ("g", "nr", "ug")  # of the archive


def drawing(small, folder):
    """Draw the synthetic set by the package, by OpenCV and by Pillow."""
    n, sizes = (40, (32,)) if small else (15_000, (32, 64, 224))
    table, lines, equal = shapes.draw_parameters(n, 0), [], []
    drawers = {"ours": shapes.render, "OpenCV": _by_opencv, "Pillow": _by_pillow}
    for size in sizes:
        drawn = {name: draw(table[:200], size) for name, draw in drawers.items()}
        same = {name: float((drawn[name] == drawn["ours"]).mean()) for name in ("OpenCV", "Pillow")}
        require(min(same.values()) > 0.95, f"at {size} px only {same} of the bytes are equal")
        equal.append(f"{100 * min(same.values()):.1f} % at {size} px")
        sides = {name: lambda draw=draw, size=size: _all(draw, table, size) for name, draw in drawers.items()}
        seconds, _ = in_turn(sides, 1 if small or size > 64 else 3, warm_up=size <= 64)
        what = f"{n:,} images, {size} px"
        lines += [Line(what, name, seconds["ours"], seconds[name]) for name in same]
    note = "Peers round outlines to whole or fractional pixels of their own; ours tests every pixel's centre."
    return Result(lines, f"bytes equal to ours, outlines apart: {', '.join(equal)}", note)


def _all(draw, table, size):
    """Draw a whole table in parts, so that no side is measured on memory."""
    for first in range(0, len(table), CHUNK):
        draw(table[first : first + CHUNK], size)


def _rows(table):
    columns = ["x", "y", "major", "minor", "rotation"]
    colours = np.round(255 * shapes.hue_to_rgb(table["hue"].to_numpy())).astype(int).tolist()
    return zip(table[columns].to_numpy().tolist(), colours, strict=True)


def _by_opencv(table, size):
    import cv2

    images = np.zeros((len(table), size, size, 3), np.uint8)
    bits = 4  # of a pixel's fraction
    for image, ((x, y, major, minor, rotation), colour) in zip(images, _rows(table), strict=True):
        points = [round((v * size - 0.5) * 2**bits) for v in (x, y)]
        axes = [round(v * size * 2**bits) for v in (major, minor)]
        cv2.ellipse(image, points, axes, np.degrees(rotation), 0, 360, colour, -1, cv2.LINE_8, bits)
    return images.transpose(0, 3, 1, 2)


def _by_pillow(table, size):
    images = np.empty((len(table), size, size, 3), np.uint8)
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for row, ((x, y, major, minor, rotation), colour) in enumerate(_rows(table)):
        along, across = circle * np.array([[major], [minor]])
        cosine, sine = np.cos(rotation), np.sin(rotation)
        points = np.stack([x + cosine * along - sine * across, y + sine * along + cosine * across], axis=1)
        image = Image.new("RGB", (size, size))
        ImageDraw.Draw(image).polygon(list(map(tuple, (points * size - 0.5).tolist())), fill=tuple(colour))
        images[row] = image
    return images.transpose(0, 3, 1, 2)


def archive(small, folder):
    """Make a set of an archive in MiceBone's format, by `fetch` and by a plain loop."""
    n = 30 if small else 1500
    path = folder / "MiceBone.zip"
    _make_archive(path, n)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    cache, plain = folder / "cache", folder / "plain.npz"

    def ours():
        shutil.rmtree(cache, ignore_errors=True)
        with patch.dict(os.environ, BHL_DATA_DIR=str(cache)):
            fetch.fetch("micebone", str(path), (digest,))

    seconds, _ = in_turn({"ours": ours, "plain": lambda: _plain_loop(path, plain)}, 1 if small else 3)
    with np.load(cache / "micebone.npz", allow_pickle=False) as a, np.load(plain, allow_pickle=False) as b:
        order = {name: row for row, name in enumerate(b["ids"].tolist())}
        rows = [order[name] for name in a["ids"].tolist()]
        for part in ("images", "counts"):
            require(np.array_equal(a[part], b[part][rows]), f"{part} of the archive")
    what = f"{n:,} images of {SIDE} px, {path.stat().st_size / 1e6:.0f} MB, to a set"
    line = Line(what, "a plain loop: Pillow, json, one process", seconds["ours"], seconds["plain"], 1.7)
    alone = min(_decode(path) for _ in range(3))
    note = (
        "Ours compares the checksum and looks for hostile or faulty members, too; the loop trusts the archive. "
        f"Decoding the images alone, with Pillow in {cores()} threads, takes {alone:.2f} s: were all else free, "
        f"the ratio would be {seconds['plain'].median / alone:.2f}."
    )
    return Result([line], "images and votes, image by image", note, functions_of_ours(ours))


def _decode(path):
    """Return the seconds that it takes to decode the images of an archive with all cores, and nothing else."""
    with zipfile.ZipFile(path) as archive:
        files = [archive.read(name) for name in archive.namelist() if name.endswith(".png")]
    with ThreadPoolExecutor(cores()) as pool:
        started = time.perf_counter()
        list(pool.map(lambda file: np.asarray(Image.open(io.BytesIO(file)).convert("L")), files))
        return time.perf_counter() - started


def _make_archive(path, n):
    """Write an archive as the published one: grey images stored in colour, eight raters of all, 73 of a few."""
    random = stream("benchmark archive", 0)
    shades = np.kron(random.integers(40, 200, (8, SIDE // 8, SIDE // 8)), np.ones((8, 8))).astype(np.int16)
    ids = [f"{CLASSES[c]}#{i:04d}_slice" for i, c in enumerate(random.integers(0, 3, n))]
    paths = [f"MiceBone/fold{i % 5 + 1}/{name}.png" for i, name in enumerate(ids)]
    with zipfile.ZipFile(path, "w") as archive:
        for i, member in enumerate(paths):
            grey = (shades[i % 8] + random.integers(-20, 21, (SIDE, SIDE))).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)).save(file, "PNG", compress_level=1)
            archive.writestr(member, file.getvalue())
        sets = []
        for rater in range(81):
            labels = random.integers(0, 3, n if rater < 8 else n // 10)
            entries = [
                {"image_path": p, "created_at": "22-02-2021-15-30-30", "class_label": CLASSES[c]}
                for p, c in zip(paths, labels, strict=False)
            ]
            about = {"name": f"INVALID{rater}", "dataset_name": "MiceBone", "user_mail": "INVALID"}
            sets.append({**about, "annotation_time": 0.0, "annotations": entries})
        archive.writestr("MiceBone/annotations.json", json.dumps(sets), zipfile.ZIP_DEFLATED)


def _plain_loop(path, target):
    """Read an archive as one would in a notebook: member by member, vote by vote."""
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".png")]
        ids = [name.rsplit("/", 1)[1].removesuffix(".png").split("-[")[0] for name in members]
        rows = {name: row for row, name in enumerate(ids)}
        images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(m))).convert("L")) for m in members])
        counts = np.zeros((len(ids), len(CLASSES)), np.int64)
        for rater in json.loads(archive.read("MiceBone/annotations.json")):
            for vote in rater["annotations"]:
                if vote["class_label"] is not None:
                    name = vote["image_path"].rsplit("/", 1)[1].removesuffix(".png").split("-[")[0]
                    counts[rows[name], CLASSES.index(vote["class_label"])] += 1
    np.savez(target, images=images, counts=counts, ids=np.array(ids), class_names=np.array(CLASSES))


def own(small, folder):
    """Make a set of a table of votes and a folder of images, by `import_votes` and as one would in a notebook."""
    n, each = (12, 3) if small else (20_000, 10)
    table = _vote_table(n, each).rename(columns={"task": "image", "worker": "annotator"})
    table["image"] += ".png"
    table.to_csv(folder / "votes.csv", index=False)
    (folder / "images").mkdir()
    names, random = sorted(table["image"].unique()), stream("benchmark images", 0)
    for name, image in zip(names, random.integers(0, 256, (n, 32, 32, 3), np.uint8), strict=True):
        Image.fromarray(image).save(folder / "images" / name)

    def ours():
        with patch.dict(os.environ, BHL_BUILD_DIR=str(folder / "build")):
            sets_of_users.import_votes("own", folder / "votes.csv", folder / "images", 32)

    def plain():
        votes = pd.read_csv(folder / "votes.csv").groupby(["image", "label"]).size().unstack(fill_value=0)
        images = np.stack([np.asarray(Image.open(folder / "images" / name).convert("RGB")) for name in votes.index])
        np.savez(folder / "plain.npz", images=images, counts=votes.to_numpy(), ids=votes.index.to_numpy(str))

    seconds, _ = in_turn({"ours": ours, "plain": plain}, 1 if small else 3)
    made = folder / "build" / "sets" / "own.npz"
    with np.load(made, allow_pickle=False) as a, np.load(folder / "plain.npz", allow_pickle=False) as b:
        for part in ("images", "counts", "ids"):
            require(np.array_equal(a[part], b[part]), f"{part} of the own set")
    line = Line(f"{n * each:,} votes on {n:,} images of 32 px to a set", "pandas and Pillow", *seconds.values())
    note = (
        "Ours looks for the format, for votes of the same annotator again, for names without a file and files without "
        "a vote, and for equal pictures, and keeps who voted; the other trusts both."
    )
    return Result([line], "images, votes and names", note, functions_of_ours(ours))


def votes(small, folder):
    """Make labels of a long table of votes with the package, pandas and crowd-kit."""
    from crowdkit.aggregation import MajorityVote

    n, each = (40, 7) if small else (200_000, 50)
    table = _vote_table(n, each)
    makers = {
        "ours": _labels_of,
        "pandas": lambda votes: votes.groupby(["task", "label"]).size().unstack(fill_value=0).idxmax(axis=1),
        "crowd-kit": lambda votes: MajorityVote().fit_predict(votes),
    }
    for make in makers.values():
        make(table[: 20 * each])  # what is made ready once
    sides = {name: lambda make=make: make(table) for name, make in makers.items() if name != "crowd-kit"}
    seconds, labels = in_turn(sides, 1 if small else 3)
    alone, slow = in_turn({"crowd-kit": lambda: makers["crowd-kit"](table)}, 1, warm_up=False)
    seconds, labels = seconds | alone, labels | slow
    (names, found, tied), by_pandas = labels["ours"], labels["pandas"]
    require(by_pandas.loc[names].tolist() == found.tolist(), "labels of pandas")
    theirs = labels["crowd-kit"].loc[names].to_numpy()
    require((theirs == found)[~tied].all(), "labels of crowd-kit that are not tied")
    what = f"{len(table):,} votes on {n:,} images to labels"
    lines = [
        Line(what, "crowd-kit, MajorityVote", seconds["ours"], seconds["crowd-kit"], 10),
        Line(what, "pandas, groupby", seconds["ours"], seconds["pandas"]),
    ]
    note = f"Ties, {tied.sum():,} of {n:,} images, go to the first class with us and with pandas."
    equal = "all labels of pandas, those of crowd-kit that are not tied"
    return Result(lines, equal, note, functions_of_ours(sides["ours"]))


def _vote_table(n, each):
    """Return one row a vote in random order, as crowd-kit wants it: task, worker, label, all of them text."""
    random = stream("benchmark votes", 0)
    table = shapes.draw_parameters(n, 0)
    labels = labels_of_votes.simulate(shapes.label_distribution(table), each, 0)  # (n, each)
    order = random.permutation(n * each)
    names = np.array([f"image-{i:06d}" for i in range(n)])
    workers = np.array([f"rater-{i:02d}" for i in range(each)])
    return pd.DataFrame(
        {
            "task": np.repeat(names, each)[order],
            "worker": np.tile(workers, n)[order],
            "label": np.array(shapes.CLASS_NAMES)[labels.ravel()][order],
        }
    )


def _labels_of(table):
    """Return the images' names, their hard labels and which are tied."""
    names, classes, counts = labels_of_votes.tally(table["task"], table["label"])
    made = labels_of_votes.targets(counts, "hard")
    return names, classes[made.rows.argmax(axis=1)], made.tied
