"""Small archives in the formats of published sets, made with nothing of the package's own writers."""

import functools
import io
import json
import threading
import zipfile
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

CLASSES = ("g", "nr", "ug")
N, N_OFTEN = 60, 6  # images; those that all of the 81 sets rate
SIDE = 32


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@functools.cache
def micebone():
    """Return the members of a small MiceBone, and by image id what should be read of it.

    As in the published set, eight raters rate all images and 73 sets the same few; images are grey and
    stored as RGB; what stands in front of a file's name is a class, but not that of its votes.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (N, 81))
    labels[7, :8] = [0, 0, 0, 0, 2, 2, 2, 2]  # a tie
    labels[8] = 1
    labels[N_OFTEN:, 8:] = -1
    pixels = rng.integers(0, 256, (N, SIDE, SIDE), np.uint8)
    prefix = [CLASSES[c] for c in rng.integers(0, 3, N)]
    ids = [f"{prefix[i]}#{i:04d}_slice" for i in range(N)]
    folds = np.arange(N) % 5 + 1
    paths = [f"MiceBone/fold{folds[i]}/{ids[i]}{'-[0.5, 0.5]' if i % 10 == 3 else ''}.png" for i in range(N)]
    members = {path: png(np.repeat(grey[:, :, None], 3, axis=2)) for path, grey in zip(paths, pixels, strict=True)}
    sets = []
    for rater in range(81):
        listed = range(N) if rater < 8 else range(0, N, 2) if rater == 20 else range(N_OFTEN)  # set 20 skipped some
        order = rng.permutation([*listed, *(range(1, N_OFTEN, 2) if rater == 20 else ())])
        entries = [
            {
                "image_path": paths[i],
                "created_at": "22-02-2021-15-30-30",
                "class_label": None if labels[i, rater] < 0 else CLASSES[labels[i, rater]],
            }
            for i in order
        ]
        about = {"name": f"INVALID{rater}", "dataset_name": "MiceBone", "user_mail": "INVALID", "annotation_time": 0.0}
        sets.append(about | {"annotations": entries})
    members["MiceBone/annotations.json"] = json.dumps(sets).encode()
    return members, dict(zip(ids, zip(labels, folds, pixels, strict=True), strict=True))


def pack(path, members, **changes):
    """Write members, some of them changed, or left out where the change is None, into a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members | changes).items():
            if content is not None:
                archive.writestr(name, content)
    return path


@contextmanager
def served(folder, handler=SimpleHTTPRequestHandler):
    """Serve a folder on the loopback; yields the address and the list of requests, each a path and a user agent."""
    requests = []

    class Handler(handler):
        def do_GET(self):
            requests.append((self.path, self.headers["User-Agent"]))
            super().do_GET()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()
