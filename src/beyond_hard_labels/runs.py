"""The store of finished runs: the one place where results are written and read.

A run is a frozen spec and a directory named by the hash of the spec:

    spec.json          the spec
    manifest.json      fingerprints of data and code, versions, machine, sizes, checksums of the files
    predictions.npz    test and validation: row indices, soft truth, logits; the validation images' labels, zeros
                       for a dropped tie; where the set has them, votes and official labels of the test images
    features.npz       pooled features of the test images
    history.csv        one row an epoch
    weights.safetensors

Everything is written under a temporary name and renamed once, and read only if its checksums are those
of the manifest, which carries its own. Metrics are not stored: they are computed from the predictions
whenever they are read, so a change in `metrics` retrains nothing.

A published run is such a folder in ``results`` of the project, without features and weights, and with

    scores.json        every score, as computed from the predictions as they lie there
    map.npz            of split 0, the t-SNE map of the test images and its settings

Its logits are rounded to float16 where no printed digit of a score shows it, and truth and votes come
along for a generated set only: those of others are not ours to pass on, and their scores are read. It
is found by its spec alone, whatever code and versions made it.

`changes` decides for all of them what is fresh, and says in words what is not.
"""

import ast
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import tokenize
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_hard_labels import InputError, files, metrics, votes
from beyond_hard_labels.files import Damaged, checksum, write_json
from beyond_hard_labels.images import LabelledImages, Split
from beyond_hard_labels.parameters import option
from beyond_hard_labels.process import tell
from beyond_hard_labels.training import TrainConfig, Trained
from beyond_hard_labels.votes import TARGET_KINDS, TIE_POLICIES

_RESULT_MODULES = ("randomness", "images", "votes", "material", "augmentation", "models", "training")
_RESULT_PACKAGES = ("numpy", "torch", "timm")
FILES = ("spec.json", "predictions.npz", "features.npz", "history.csv", "weights.safetensors")
VERSION = " → "  # in what `changes` says of another version
AWAY = " is not here"  # the end of what `changes` says of a file that cannot be compared
PUBLISHED_FILES = ("spec.json", "predictions.npz", "history.csv", "scores.json")
MAP = "map.npz"
_KNOWN_FILES = (*FILES, "scores.json", MAP)
LEFT_OUT = "left_out.json"  # beside a run that came in a pack: which of its files did not fit in


@dataclass(frozen=True, kw_only=True)
class RunSpec(TrainConfig):
    """One run: a training config and what it is trained on.

    A field that came after runs were published has a default, which is what they had: where a run has it,
    it is no part of the key, and a stored spec may lack it.
    """

    dataset: str = option("name of the set: synthetic, or that of a file of images and votes")
    n_images: int = option("images of the whole set", at_least=5)
    image_size: int = option("side in pixels", at_least=16)
    data_seed: int = option("seed of the generated set", at_least=0)
    labels: str = option("kind of label trained on", choices=TARGET_KINDS)
    train_share: float = option("share of the split's training images that is used", above=0.0, at_most=1.0)
    votes_per_image: int = option("votes a label is made of; 0: all, or the exact truth", at_least=0)
    label_smoothing: float = option("share of a target that is spread over all classes", at_least=0.0, at_most=0.5)
    ties: str = option("what a hard label does with tied votes", choices=TIE_POLICIES)
    raters: str = option("whose votes count: all, or those who labelled every image", choices=("all", "complete"))
    split_kind: str = option("random, or slice: by the folds of the set", choices=("random", "slice"))
    split: int = option("number of the split; seeds everything in the run", at_least=0)
    test_images: int = option(
        "test images beside the set, the same for every data_seed; 0: a part of it", at_least=0, default=0
    )
    ambiguous: str = option("ambiguous training images", choices=("kept", "left_out", "replaced"), default="kept")

    @property
    def key(self) -> str:
        """Name of the run: the first 12 hexadecimal digits of the hash of its spec.

        A local weights file counts by its checksum, not by where it lies.
        """
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        spec = {name: value for name, (value, default) in values.items() if value != default}
        if spec["weights_sha256"]:
            spec["weights"] = "file"
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]


def other_fields(spec: dict) -> str:
    """Say which fields a stored spec lacks (+) and which it has beyond today's (-); nothing if it can be read."""
    known = {field.name: field.default for field in fields(RunSpec)}
    lacks = sorted(name for name in known.keys() - spec if known[name] is MISSING)
    return ", ".join([f"+{name}" for name in lacks] + [f"-{name}" for name in sorted(spec.keys() - known)])


@dataclass(frozen=True)
class Run:
    """A finished run as read from the store.

    Attributes
    ----------
    spec : RunSpec
    folder : Path
    manifest : dict
        Fingerprints, versions and the machine.
    history : pandas.DataFrame
        One row an epoch, metrics on the validation images.
    index, predicted : np.ndarray
        The test images' rows in the set (N,) and their predicted distribution (N, K).
    truth : np.ndarray or None
        Their soft truth (N, K); None where a published run may not carry it.
    """

    spec: RunSpec
    folder: Path
    manifest: dict
    history: pd.DataFrame
    index: np.ndarray
    truth: np.ndarray | None
    predicted: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric on the test images, computed now; without the truth as published."""
        return self._as_published("metrics") if self.truth is None else metrics.score(self.truth, self.predicted)

    def validation(self, epoch: int) -> dict[str, float]:
        """Return the metrics on the validation images after an epoch, counted from 1."""
        return self.history.set_index("epoch").loc[epoch].drop("train_loss").to_dict()

    @property
    def name(self) -> str:
        """Its key, and whose it is: a local and a published run of one spec have pages of their own."""
        return f"published-{self.spec.key}" if self.published else self.spec.key

    @property
    def published(self) -> bool:
        """Whether this is one of the project's published runs."""
        return self.folder.parent == published_folder()

    @property
    def files(self) -> list[str]:
        """Names of the files that make it up."""
        return [name for name in _KNOWN_FILES if (self.folder / name).is_file()]

    def stored(self, part: str) -> np.ndarray | None:
        """Return an array of the predictions, such as ``validation_logits``; None if the set has no such."""
        with np.load(self.folder / "predictions.npz", allow_pickle=False) as file:
            return file[part] if part in file.files else None

    def temperatures(self) -> dict[str, tuple[float, float]]:
        """Return the temperature that fits the validation images, and the test KL with it, by what it fits.

        Who has hard labels only can fit it to nothing but those, the run's ``own targets``, before they
        were smoothed; the ``soft truth`` shows what scaling could do at best. Without the truth both are
        as published.
        """
        if self.truth is None:
            return {name: tuple(pair) for name, pair in self._as_published("temperatures").items()}
        soft, logits, test_logits = map(self.stored, ("validation_truth", "validation_logits", "test_logits"))
        own = self.stored("validation_labels")
        labelled = own.any(axis=1)  # a dropped tie has no label
        fitted = {
            "own targets": metrics.temperature(logits[labelled], own[labelled]),
            "soft truth": metrics.temperature(logits, soft),
        }
        return {name: (t, metrics.kl(self.truth, metrics.softmax(test_logits / t))) for name, t in fitted.items()}

    def floors(self) -> dict[str, float] | None:
        """Return both estimates of the KL that remains for who knows each distribution; None if the truth is exact."""
        if self.truth is None:
            return self._as_published("floors")
        if (cast := self.stored("test_votes")) is None:
            return None
        return {"analytic": metrics.noise_floor(cast), "halves": metrics.split_half_floor(cast)}

    def official_accuracy(self) -> float | None:
        """Return the macro accuracy against the official labels of the test images, None if the set has none."""
        if self.truth is None:
            return self._as_published("official_accuracy")
        if (official := self.stored("test_official")) is None:
            return None
        return metrics.macro_accuracy(np.eye(self.truth.shape[1])[official], self.predicted)

    def scores(self) -> dict:
        """Return all that follows from predictions and truth, as ``scores.json`` of a published run has it."""
        return {
            "metrics": self.metrics,
            "temperatures": {name: list(pair) for name, pair in self.temperatures().items()},
            "floors": self.floors(),
            "official_accuracy": self.official_accuracy(),
        }

    def _as_published(self, part: str):
        return json.loads((self.folder / "scores.json").read_text("utf-8"))[part]

    @property
    def features(self) -> np.ndarray:
        """Pooled features of the test images, float32 (N, F)."""
        with np.load(self.folder / "features.npz", allow_pickle=False) as file:
            return file["test"]

    def published_map(self) -> tuple[np.ndarray, dict] | None:
        """Return the t-SNE map (N, 2) that a published run came with, and its settings; None if there is none."""
        if not (self.folder / MAP).is_file():
            return None
        with np.load(self.folder / MAP, allow_pickle=False) as file:
            return file["plane"], json.loads(file["settings"].item())


def build_folder() -> Path:
    """Return the folder of everything generated: BHL_BUILD_DIR, else ``build`` in the project."""
    return Path(os.environ.get("BHL_BUILD_DIR") or project_folder() / "build").resolve()


def published_folder() -> Path:
    """Return the folder of the published runs."""
    return project_folder() / "results"


def project_folder() -> Path:
    """Return the checkout that this package is installed from, else the current folder."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "_toc.yml").is_file() else Path.cwd()


@functools.cache
def code_without_comments(source: str) -> str:
    """Return the source without comments, docstrings and blank lines, whatever the Python version.

    Blank lines and spaces at line ends inside other strings are kept, since they are what a page or a file shows.
    """
    lines = source.split("\n")
    text, opened = set(), []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, (row, column) = tokenize.tok_name[token.type], token.start
        if kind == "COMMENT":
            lines[row - 1] = lines[row - 1][:column]
        elif kind.endswith("STRING_START"):  # since Python 3.12 an f-string is many tokens
            opened.append(row)
        elif kind.endswith("STRING_END") or kind == "STRING":
            text |= set(range((opened.pop() if kind != "STRING" else row) - 1, token.end[0] - 1))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            for row in range(node.body[0].lineno - 1, node.body[0].end_lineno):
                lines[row] = ""
                text.discard(row)
    kept = [line if row in text else line.rstrip() for row, line in enumerate(lines)]
    return "\n".join(line for row, line in enumerate(kept) if line or row in text)


def modules_used(source: str) -> set[str]:
    """Return the modules of this package that a piece of code imports, and those that they import."""
    found, waiting = set(), [source]
    while waiting:
        for name in _imported(waiting.pop()) - found:
            if _module_path(name).is_file():
                found.add(name)
                waiting.append(_module_path(name).read_text("utf-8"))
    return found


@functools.cache
def _imported(source: str) -> frozenset[str]:
    """Return the names that a piece of code imports from this package, of modules and of what is in it."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    found = set()
    for node in nodes:
        package, _, module = (node.module or "").partition(".")
        if package == "beyond_hard_labels":
            found |= {module} if module else {alias.name for alias in node.names}
    return frozenset(found)


def _module_path(module: str) -> Path:
    return Path(__file__).parent / f"{module}.py"


@functools.cache
def code_fingerprint(*modules: str) -> str:
    """Return the hash of the code of modules of this package; comments and docstrings do not count.

    The script and the style that a module of the same name puts into pages are code, too.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update(code_without_comments(_module_path(module).read_text("utf-8")).encode())
        for part in (_module_path(module).with_suffix(".css"), _module_path(module).with_suffix(".js")):
            digest.update(part.read_bytes() if part.is_file() else b"")
    return digest.hexdigest()[:16]


def code_fingerprints(*modules: str) -> dict[str, str]:
    """Return the fingerprint of each of some modules of this package, by the name of its file."""
    return {f"{module}.py": code_fingerprint(module) for module in sorted(modules)}


def provenance(spec: RunSpec) -> dict[str, dict]:
    """Return what a local run must share with this moment to count: data, code and versions, by name.

    The data of a generated set are its parameters, which the spec holds, and the code that draws it;
    those of another set are its file, None where that is not here.
    """
    from beyond_hard_labels import real_data

    if spec.dataset == real_data.SYNTHETIC:
        data = code_fingerprints("shapes")
    else:
        data = {"data file": real_data.fingerprint(spec.dataset) if data_is_here(spec) else None}
    return {
        "data": data,
        "code": code_fingerprints(*_RESULT_MODULES, *(["dcic"] if spec.split_kind == "slice" else [])),
        "versions": versions(*_RESULT_PACKAGES),
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages; none of them is imported."""
    return {name: importlib.metadata.version(name) for name in packages}


def changes(made: dict[str, dict], here: dict[str, dict]) -> list[str]:
    """Say in words what has changed since something was made; nothing if it is fresh.

    This is the one place that decides what is stale, for runs, checkpoints, maps and notebooks alike.

    Parameters
    ----------
    made, here : dict
        What it was made of and what is here now, by part (``data``, ``code``, ``versions``) and then
        by name, as of `provenance`. Parts that only `made` has do not count.

    Returns
    -------
    list of str
        Such as ``augmentation.py changed``, ``torch 2.13.0 → 2.14.1``, ``data file is not here``.
    """
    found = []
    for part, now in here.items():
        before = made.get(part)
        if not isinstance(before, dict):
            found.append(f"its record of {part} is of another form")
            continue
        for name in [*now, *(before.keys() - now.keys())]:
            pair = before.get(name), now.get(name)
            if name in now and pair[1] is None:
                found.append(name + AWAY)
            elif pair[0] != pair[1]:
                found.append(_change(name, *pair, part))
    return found


def _change(name: str, before: str | None, now: str | None, part: str) -> str:
    if part == "versions":
        return f"{name} {before or 'not recorded'}{VERSION}{now or 'not needed'}"
    return f"{name} changed" if before and now else f"{name} is {'new' if now else 'no longer part of it'}"


def told(found: list[str]) -> str:
    """Return changes as one text, in which what cannot be compared here is none."""
    away = ", ".join(change for change in found if change.endswith(AWAY))
    changed = "; ".join(change for change in found if not change.endswith(AWAY)) or "nothing"
    return f"{changed} ({away} to be compared)" if away else changed


def find(spec: RunSpec) -> Run | None:
    """Return the local run of a spec if it is there, whole and counts, see `outdated`, else None."""
    folder = build_folder() / "runs" / spec.key
    if not folder.is_dir():
        return None
    try:
        run = load(folder)
    except Damaged:
        return None  # it is named and set aside when it is made again
    return None if outdated(run) else run


def set_aside_damaged(spec: RunSpec) -> None:
    """Move the local run of a spec out of the way, with a word, if it is damaged; the caller holds its lock."""
    folder = build_folder() / "runs" / spec.key
    if folder.is_dir():
        try:
            load(folder)
        except Damaged as error:
            aside = files.set_aside(folder, build_folder() / "damaged")
            tell(f"{error}; it is set aside as {aside} and made again")


def can_train(spec: RunSpec) -> bool:
    """Return whether a run can be trained on this machine: its images are here, and the GPU if it needs one."""
    if spec.device == "cuda":
        import torch

        return torch.cuda.is_available() and data_is_here(spec)
    return data_is_here(spec)


def data_is_here(spec: RunSpec) -> bool:
    """Return whether the images that a run is trained on are on this machine."""
    from beyond_hard_labels import real_data

    return spec.dataset == real_data.SYNTHETIC or spec.dataset in real_data.names()


def published(spec: RunSpec) -> Run | None:
    """Return the published run of a spec, or None."""
    folder = published_folder() / spec.key
    return load(folder) if folder.is_dir() else None


def published_specs(dataset: str) -> list[RunSpec]:
    """Return the specs of all published runs on a set, in the order of their keys."""
    found = [load(path.parent).spec for path in sorted(published_folder().glob("*/spec.json"))]
    return [spec for spec in found if spec.dataset == dataset]


def by_name(name: str) -> Run:
    """Return the run of a name, see `Run.name`."""
    key = name.removeprefix("published-")
    return load((build_folder() / "runs" if key == name else published_folder()) / key)


def differences(run: Run) -> list[str]:
    """Say in words what a run was made of that is another here, see `changes`."""
    unsealed = [] if "files" in run.manifest else ["it has no checksums of its files"]
    return changes(run.manifest, provenance(run.spec)) + unsealed


def outdated(run: Run) -> list[str]:
    """Say why a local run does not count here, see `changes`; without its data it does not.

    Other versions matter only where it can be trained again: a run from the machine with the GPU counts
    on one without, whatever is installed there.
    """
    found = differences(run)
    return found if not found or can_train(run.spec) else [change for change in found if VERSION not in change]


def required_files(folder: Path) -> list[str]:
    """Return the names of the files that a run in this folder must have."""
    if folder.parent == published_folder():
        return list(PUBLISHED_FILES)
    without = folder / LEFT_OUT
    left_out = json.loads(without.read_text("utf-8")) if without.is_file() else ()
    return [name for name in FILES if name not in left_out]


def load(folder: Path) -> Run:
    """Read a run's directory, after a look at the checksums of all its files.

    Raises
    ------
    Damaged
        If a file of the run is missing or not as it was stored.
    InputError
        If the run is missing, or the spec has other fields than a run's.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(f"there is no run in {folder}; 'bhl book' or 'bhl study' trains what is missing")
    missing = [name for name in (*required_files(folder), "manifest.json") if not (folder / name).is_file()]
    if missing:
        raise Damaged(f"the run in {folder} is not whole, {', '.join(missing)} not found")
    manifest = files.read_sealed_json(folder / "manifest.json")
    content = {name: (folder / name).read_bytes() for name in _KNOWN_FILES if (folder / name).is_file()}
    sealed = manifest["files"]
    if folder.parent == published_folder() and (lost := sorted(sealed.keys() - content)):
        raise Damaged(f"the run in {folder} is not whole, {', '.join(lost)} not found")
    changed = [name for name, found in content.items() if hashlib.sha256(found).hexdigest() != sealed.get(name)]
    if changed:
        raise Damaged(f"the run in {folder} is damaged, {', '.join(changed)} not as it was stored")
    spec = json.loads(content["spec.json"])
    if other := other_fields(spec):
        raise InputError(f"{folder / 'spec.json'}: fields differ from a run's: {other}")
    with np.load(io.BytesIO(content["predictions.npz"]), allow_pickle=False) as file:
        index, logits = (file[f"test_{part}"] for part in ("index", "logits"))
        truth = file["test_truth"] if "test_truth" in file.files else None
    return Run(
        spec=RunSpec(**spec),
        folder=folder,
        manifest=manifest,
        history=pd.read_csv(io.BytesIO(content["history.csv"])),
        index=index,
        truth=truth,
        predicted=metrics.softmax(logits),
    )


def save(
    spec: RunSpec,
    trained: Trained,
    split: Split,
    data: LabelledImages,
    labels: votes.Targets,
    seconds: float,
    store: Path | None = None,
) -> Run:
    """Write a run whole or not at all, replacing a stale one, and return it as read back.

    Parameters
    ----------
    spec : RunSpec
    trained : Trained
    split : Split
    data : LabelledImages
        The whole set.
    labels : Targets
        The labels of all images, before they were smoothed.
    seconds : float
        Wall time of the training.
    store : Path, optional
        The folder of runs; by default the build folder's.
    """
    from safetensors.numpy import save as to_bytes

    folder = (store or build_folder() / "runs") / spec.key
    files.sweep(folder)
    with files.writing(folder) as temporary:
        temporary.mkdir()
        write_predictions(temporary, split, data, labels, trained.test_logits, trained.validation_logits)
        write_npz(temporary / "features.npz", test=trained.test_features)
        pd.DataFrame(trained.history).to_csv(temporary / "history.csv", index=False)
        weights = to_bytes({name: tensor.numpy() for name, tensor in trained.state.items()})
        (temporary / "weights.safetensors").write_bytes(weights)
        write_json(temporary / "spec.json", asdict(spec))
        manifest = {
            **provenance(spec),
            "machine": machine(spec.device),
            "classes": data.class_names,
            "training_images": len(split.train),
            "tied_training_images": int(labels.tied[split.train].sum()),
            "training_images_short_of_votes": int(labels.short[split.train].sum()),
            "seconds": round(seconds, 1),
            "files": {name: checksum(temporary / name) for name in FILES},
        }
        write_json(temporary / "manifest.json", manifest, sealed=True)
    return load(folder)


def write_predictions(
    folder: Path,
    split: Split,
    data: LabelledImages,
    labels: votes.Targets,
    test_logits: np.ndarray,
    validation_logits: np.ndarray,
) -> None:
    """Write ``predictions.npz``: what a run predicts, and all that it is scored against."""
    more = {"test_votes": data.votes, "test_official": data.official}
    write_npz(
        folder / "predictions.npz",
        test_index=split.test,
        test_truth=data.truth[split.test],
        test_logits=test_logits,
        validation_index=split.validation,
        validation_truth=data.truth[split.validation],
        validation_logits=validation_logits,
        validation_labels=np.where(labels.keep[:, None], labels.rows, 0.0)[split.validation],
        **{name: rows[split.test] for name, rows in more.items() if rows is not None},
    )


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    content = io.BytesIO()  # zipfile on a full disk would fail a second time when it is closed
    np.savez_compressed(content, **arrays)
    path.write_bytes(content.getbuffer())


def machine(device: str) -> dict[str, str]:
    """Describe what runs here: Python, system, processor and, for cuda, the GPU."""
    described = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    described["cores"] = str(os.cpu_count())
    if device == "cuda":
        import torch

        described["gpu"] = torch.cuda.get_device_name()
    return described
