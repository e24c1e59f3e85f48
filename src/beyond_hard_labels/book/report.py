"""Tables, sentences and numbers of a study, all computed from its runs.

Text names a number or a table by a placeholder, ``{{ soft.kl }}`` or ``{{ table.one }}``; `fill` puts
it in, as a link to the page of the runs behind it, and refuses an unknown one. Notebooks do so through
`say`, the book's Markdown pages when they are staged. Both keep a record of what they printed, from
which `verify` computes it again.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from beyond_hard_labels.analysis.images import describe, spread_of_ambiguity
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.data.images import LabelledImages, random_split
from beyond_hard_labels.data.sets import SYNTHETIC, names
from beyond_hard_labels.data.votes import LABEL_KINDS
from beyond_hard_labels.learn import metrics, tsne
from beyond_hard_labels.learn.significance import Interval, corrected_t
from beyond_hard_labels.runs.fresh import can_train, told
from beyond_hard_labels.runs.inputs import images_of
from beyond_hard_labels.runs.maps import map_of
from beyond_hard_labels.runs.store import Run
from beyond_hard_labels.runs.store import differences as differing
from beyond_hard_labels.runs.study import Study, valid_parameters

PAPER = {  # Table 1 of the paper: mean and standard deviation over three splits
    SYNTHETIC: {
        ("hard", "macro_accuracy"): (0.8247, 0.0500),
        ("hard", "kl"): (0.4137, 0.0836),
        ("soft", "macro_accuracy"): (0.9096, 0.0137),
        ("soft", "kl"): (0.0394, 0.0009),
    },
    "micebone": {
        ("hard", "macro_accuracy"): (0.6217, 0.0466),
        ("hard", "kl"): (0.7884, 0.1089),
        ("soft", "macro_accuracy"): (0.6903, 0.0669),
        ("soft", "kl"): (0.2280, 0.0227),
    },
}
HEADINGS = {
    "macro_accuracy": "macro accuracy ↑",
    "kl": "KL to soft truth ↓",
    "one_hot_kl": "KL to one-hot truth",
    "exact_kl": "KL unclipped ↓",
    "jensen_shannon": "Jensen-Shannon ↓",
    "manhattan": "Manhattan ↓",
    "soft_accuracy": "soft accuracy ↑",
    "brier": "Brier ↓",
    "calibration_error": "calibration error ↓",
    "entropy_correlation": "entropy correlation ↑",
}
CURVES = {  # what a run's history holds of its validation images
    "kl": HEADINGS["kl"],
    "macro_accuracy": HEADINGS["macro_accuracy"],
    "loss": "loss against own targets ↓",
}
_HIGHER_IS_BETTER = ("macro_accuracy", "soft_accuracy", "entropy_correlation")
_NUMBER = re.compile(  # with its ± or interval
    r"[<\[]? ?[-+]?[\d,]+(\.\d+)?(( ±| to|,) [-+]?\d+(\.\d+)?)?\]?( \[[-+][\d.]+, [-+][\d.]+\])?"
)


def scores(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: labels, split, key and every metric on its test images."""
    return pd.DataFrame(
        [{"labels": r.spec.labels, "split": r.spec.split, "key": r.spec.key, **r.metrics} for r in runs]
    )


def _by_arm(runs: list[Run]) -> pd.DataFrame:
    """Return one row an arm: mean and standard deviation of every metric over the splits."""
    return scores(runs).groupby("labels")[list(metrics.METRICS)].agg(["mean", "std"])


def differences(runs: list[Run]) -> dict[str, Interval]:
    """Return, per metric, soft minus hard over the splits with the corrected interval."""
    table = scores(runs).set_index(["labels", "split"])
    return {name: corrected_t(table.loc["soft", name] - table.loc["hard", name]) for name in metrics.METRICS}


def table_one(runs: list[Run]) -> pd.DataFrame:
    """Return the paper's Table 1 beside ours, mean ± standard deviation, the better arm in bold."""
    table = _by_arm(runs)
    ours = {
        (labels, name): tuple(table.loc[labels, name]) for labels in LABEL_KINDS for name in ("macro_accuracy", "kl")
    }
    rows = {}
    sources = {"paper": PAPER.get(runs[0].spec.dataset), f"[this book](#{label(runs)})": ours}
    for source, values in sources.items():
        if values is None:  # a set that the paper has not
            continue
        row = {}
        for name in ("macro_accuracy", "kl"):
            better = _better(values["soft", name][0], values["hard", name][0], name)
            for labels in LABEL_KINDS:
                text = plus_minus(*values[labels, name])
                row[f"{labels}: {HEADINGS[name]}"] = f"**{text}**" if labels == better else text
        rows[source] = row
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
    return frame[sorted(frame.columns, key=lambda column: column.split(":")[0])].reset_index()


def label(runs: list[Run]) -> str:
    """Return the name of the page that lists some runs, which is also what links to it name."""
    return "runs-" + hashlib.sha256(" ".join(run.name for run in runs).encode()).hexdigest()[:8]


def _better(soft: float, hard: float, name: str) -> str:
    return "soft" if (soft > hard) == (name in _HIGHER_IS_BETTER) else "hard"


def arm_table(runs: list[Run]) -> pd.DataFrame:
    """Return one row an arm of runs on real votes, the paper's first: its scores beside the floor under each KL.

    The columns with a temperature are the KL after the logits were divided by the one that fits the
    arm's own targets, or the soft truth, of the validation images.
    """
    rows = [
        {
            "arm": f"paper, {labels} labels",
            HEADINGS["macro_accuracy"]: plus_minus(*values[labels, "macro_accuracy"]),
            HEADINGS["kl"]: plus_minus(*values[labels, "kl"]),
        }
        for values in [PAPER.get(runs[0].spec.dataset)]
        if values
        for labels in LABEL_KINDS
    ]
    for labels in LABEL_KINDS:
        found = pd.DataFrame([_beside_votes(run) for run in runs if run.spec.labels == labels])
        row = {name: plus_minus(column.mean(), column.std()) for name, column in found.items()}
        rows.append({"arm": f"[this book, {labels} labels](#{label(runs)})"} | row)
    return pd.DataFrame(rows)


def _beside_votes(run: Run) -> dict[str, float]:
    """Return a run's headline scores, its KL after scaling by a temperature, and the floors under it."""
    scaled = {f"KL, T by {truth} ↓": kl for truth, (_, kl) in run.temperatures().items()}
    return (
        {HEADINGS[name]: run.metrics[name] for name in ("macro_accuracy", "kl")}
        | scaled
        | {f"floor, {name}": floor for name, floor in run.floors().items()}
    )


def temperature_table(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: its temperatures and the KL without and with them."""
    return pd.DataFrame(
        [
            {"labels": run.spec.labels, "split": run.spec.split, "run": run_link(run), "KL": f"{run.metrics['kl']:.4f}"}
            | {
                f"{what}, {name}": f"{value:.4f}"
                for name, pair in run.temperatures().items()
                for what, value in zip(("T", "KL"), pair, strict=True)
            }
            for run in runs
        ]
    )


def official_table(runs: list[Run]) -> pd.DataFrame:
    """Return one row an arm: macro accuracy against the majority of the votes, and against the official label."""
    rows = []
    for run in runs:
        scores = run.metrics["macro_accuracy"], run.official_accuracy()
        rows.append((f"[{run.spec.labels} labels](#{label(runs)})", *scores))
    columns = ["macro accuracy of", "against the majority ↑", "against the official label ↑"]
    grouped = pd.DataFrame(rows, columns=columns).groupby(columns[0])
    return grouped.agg(lambda column: plus_minus(column.mean(), column.std())).reset_index()


def all_metrics(runs: list[Run]) -> pd.DataFrame:
    """Return one row a metric: both arms, and their difference with its corrected 95 % interval."""
    table = _by_arm(runs)
    rows = []
    for name, interval in differences(runs).items():
        row = {"metric": f"[{HEADINGS[name]}](#{label(runs)})"}
        row |= {labels: plus_minus(*table.loc[labels, name]) for labels in LABEL_KINDS}
        better = _better(table.loc["soft", (name, "mean")], table.loc["hard", (name, "mean")], name)
        if name != "one_hot_kl":  # which arm should be near a one-hot truth is a matter of opinion
            row[better] = f"**{row[better]}**"
        row |= {"soft - hard": f"{interval.mean:+.4f}", "95 % interval": bounds(interval)}
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={labels: f"{labels} labels" for labels in LABEL_KINDS})


def plus_minus(mean: float, deviation: float) -> str:
    """Format a mean and a standard deviation; a single run has none."""
    return f"{mean:.4f}" + ("" if pd.isna(deviation) else f" ± {deviation:.4f}")


def bounds(interval: Interval, digits: int = 4) -> str:
    """Format an interval; one split has none."""
    if pd.isna(interval.low):
        return "needs two splits"
    return f"[{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def verdict(interval: Interval, name: str) -> tuple[str, str, str]:
    """Say what the interval of soft minus hard says, and how that stands to the paper.

    The paper finds soft labels better in both of its metrics. Returns what comes before the size of
    the difference, the size, and what comes after it.
    """
    size = f"{interval.mean:+.4f} (soft minus hard, 95 % interval {bounds(interval)})"
    sign = 1 if name in _HIGHER_IS_BETTER else -1
    worst, best = sorted((sign * interval.low, sign * interval.high))
    if worst > 0:
        return "the soft arm is better, by a difference of ", size, ", which agrees with the paper"
    if best < 0:
        return "the hard arm is better, by a difference of ", size, ", which contradicts the paper"
    outcome = ", so the paper's advantage of soft labels does not show"
    return "the arms cannot be told apart, with a difference of ", size, outcome


def texts(study: Study, runs: list[Run]) -> dict[str, str | Callable[[], str]]:
    """Return every number and table that text may name; tables as functions, since they cost more.

    Numbers link to the page of the runs that they come from.
    """
    paper = PAPER.get(runs[0].spec.dataset, {})
    table = _by_arm(runs)
    linked = {
        f"{labels}.{name}": plus_minus(*table.loc[labels, name]) for labels in LABEL_KINDS for name in metrics.METRICS
    }
    linked |= {f"{labels}.epochs_to_90": _epochs_to(0.9, runs, labels) for labels in LABEL_KINDS}
    verdicts = {name: verdict(differences(runs)[name], name) for name in ("macro_accuracy", "kl")}
    linked |= {f"verdict.{name}": size for name, (_, size, _) in verdicts.items()}
    named = {name: f"[{text}](#{label(runs)})" for name, text in linked.items()}
    for name, (before, _, after) in verdicts.items():
        named[f"verdict.{name}"] = before + named[f"verdict.{name}"] + after
    named |= {f"paper.{labels}.{name}": plus_minus(*value) for (labels, name), value in paper.items()}
    named |= {f"parameter.{name}": str(value) for name, value in study.shared.items()}
    named |= {"profile": study.profile, "protocol": study.protocol.replace("_", " "), "splits": study.counted}
    named |= {"perplexity": f"{study.perplexity:g}", "tsne_iterations": str(study.tsne_iterations)}
    named |= {"images.test": str(len(runs[0].index)), "badge": badge(study, runs), "command": study.command}
    named |= {"published": banner(runs)}
    tables = {
        "one": lambda: table_one(runs),
        "metrics": lambda: all_metrics(runs),
        "runs": lambda: run_table(runs),
        "scores": lambda: score_table(runs),
        "differences": lambda: difference_table(runs),
        "parameters": lambda: parameter_table(study),
        "last_epoch": lambda: last_epoch(runs),
        "images": lambda: image_table(study, runs, 12),
        "map": lambda: map_quality(study, runs),
        "votes": lambda: arm_table(runs),
        "temperature": lambda: temperature_table(runs),
        "official": lambda: official_table(runs),
    }
    return named | {
        f"table.{name}": lambda name=name, make=make: markdown_table(make(), name) for name, make in tables.items()
    }


def description(data: LabelledImages) -> pd.DataFrame:
    """Return what a set with votes holds, in words, one row a property."""
    found = describe(data)
    (channels, height, width), most = found["shape"], np.log(len(found["majority"]))
    rows = {
        "images": f"{found['images']:,}, {'grey' if channels == 1 else 'colour'}, {height} × {width} pixels",
        "votes an image": f"{found['votes_least']} to {found['votes_most']}",
        "images by majority (ties to the first)": ", ".join(f"{c} {n}" for c, n in found["majority"].items()),
        "images with a tied majority": f"{found['tied']:,} of {found['images']:,}",
        "unanimous images": f"{100 * found['unanimous']:.1f} %",
        "mean entropy of the votes": f"{found['mean_entropy']:.4f} nats, of {most:.4f} at most",
    }
    return pd.DataFrame(rows.items(), columns=["what", "value"])


def label_table(rows: np.ndarray, class_names: tuple[str, ...], n_rows: int) -> pd.DataFrame:
    """Return the first label distributions, one column a class."""
    return pd.DataFrame(rows[:n_rows], columns=list(class_names)).round(3).rename_axis("image").reset_index()


def top_classes(rows: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """Return for each distribution its two most probable classes in words: ``rc 0.70, gc 0.30``."""
    order = np.argsort(-rows, axis=1, kind="stable")[:, :2]
    return [
        ", ".join(f"{class_names[k]} {row[k]:.2f}" for k in leading if row[k] > 0)
        for row, leading in zip(rows, order, strict=True)
    ]


def most_wrong(run: Run, n: int) -> np.ndarray:
    """Return the n test images of a run with the largest KL between truth and prediction, worst first."""
    return np.argsort(-metrics.kl_rows(run.truth, run.predicted), kind="stable")[:n]


def most_ambiguous(truth: np.ndarray, n: int) -> np.ndarray:
    """Return the n rows of the largest entropy, the most ambiguous first."""
    return np.argsort(-metrics.entropy(truth), kind="stable")[:n]


def kl_titles(run: Run, rows: np.ndarray) -> list[str]:
    """Return the KL between truth and prediction of some test images as titles of pictures."""
    return [f"KL {value:.2f}" for value in metrics.kl_rows(run.truth[rows], run.predicted[rows])]


def judged(runs: dict[str, Run], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the truth and each arm's prediction of some test images, by names for a figure."""
    truth = next(iter(runs.values())).truth
    return {"truth": truth[rows]} | {f"{arm} labels": run.predicted[rows] for arm, run in runs.items()}


def calibration_table(data: LabelledImages) -> pd.DataFrame:
    """Return the moments of each channel beside the published ones."""
    ours = describe(data)
    published = {"channel_mean": (0.1577, 0.1690, 0.1672), "channel_std": (0.3466, 0.3571, 0.3550)}  # DCIC, 224 px
    return pd.DataFrame(
        [
            {
                "moment": f"{channel}, {what}",
                "published": f"{theirs:.4f}",
                "here": f"{here:.4f}",
                "difference": f"{here - theirs:+.4f}",
            }
            for name, what in (("channel_mean", "mean"), ("channel_std", "standard deviation"))
            for channel, theirs, here in zip(("red", "green", "blue"), published[name], ours[name], strict=True)
        ]
    )


def _epochs_to(accuracy: float, runs: list[Run], labels: str) -> str:
    """Say at which epoch the mean macro accuracy on validation images first reaches a value."""
    histories = pd.concat([run.history for run in runs if run.spec.labels == labels])
    mean = histories.groupby("epoch")["macro_accuracy"].mean()
    reached = mean.index[mean >= accuracy]
    return f"at epoch {reached[0]}" if len(reached) else "not at all"


def data_badge(study: Study) -> str:
    """Say in one line which profile and data a page shows."""
    here = "images and votes from a file" if study.shared["dataset"] in names() else "whose images are not here"
    source = "generated" if study.shared["dataset"] == SYNTHETIC else here
    shared, changed = study.shared, ", ".join(f"{name} = {value}" for name, value in study.changed.items())
    return (
        f"**Profile {study.profile}**{f' with {changed}' if changed else ''} · {shared['dataset']}, "
        f"{shared['n_images']:,} images of {shared['image_size']} px, {source}"
    )


def badge(study: Study, runs: list[Run]) -> str:
    """Say in one line which profile, data, training and device the numbers of a page come from."""
    spec, manifest = runs[0].spec, runs[0].manifest
    return (
        f"{data_badge(study)} · {spec.backbone}, weights {spec.weights}, {spec.epochs} epochs, protocol "
        f"{study.protocol.replace('_', ' ')} · {study.counted} · {_trained_on(runs)}, "
        f"{manifest['machine'].get('gpu', spec.device)}, {spec.dtype}, torch {manifest['versions']['torch']}"
    )


def _trained_on(runs: list[Run]) -> str:
    of_project = [run for run in runs if run.published]
    if not of_project:
        brought = any(run.spec.device == "cuda" and not can_train(run.spec) for run in runs)
        return "brought here from a machine with a GPU" if brought else "trained on this machine"
    machine = of_project[0].manifest["machine"]
    part = "published run" if len(runs) == 1 else f"{len(of_project)} of {len(runs)} are published runs"
    return f"{part}, trained on {machine['system']} with {machine['cores']} cores"


def banner(runs: list[Run]) -> str:
    """Say of published runs that they are, and what differs from this machine; nothing of others."""
    of_project = [run for run in runs if run.published]
    if not of_project:
        return ""
    return (
        f"**Published.** {len(of_project)} of these {len(runs)} runs come with the project and were not trained for "
        f"this page. {since(of_project)}"
    )


def since(runs: list[Run]) -> str:
    """Say what changed since some runs were made."""
    found = sorted({difference for run in runs for difference in differing(run)})
    return f"What changed since they were made: {told(found) or 'nothing'}."


def run_table(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: what it is, its key, its wall time and its two headline metrics."""
    return pd.DataFrame(
        [
            {
                "labels": r.spec.labels,
                "split": r.spec.split,
                "run": run_link(r),
                "tied training images": str(r.manifest["tied_training_images"]),
                "seconds": f"{r.manifest['seconds']:.0f}",
                "macro accuracy": f"{r.metrics['macro_accuracy']:.4f}",
                "KL": f"{r.metrics['kl']:.4f}",
            }
            for r in runs
        ]
    )


def run_link(run: Run) -> str:
    """Return a link to the page of a run."""
    return f"[`{run.spec.key}`](#run-{run.name})"


def score_table(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run with every metric on its test images, then mean ± deviation of each arm."""
    rows = [
        {"labels": r.spec.labels, "split": str(r.spec.split), "run": run_link(r)}
        | {HEADINGS[name]: f"{value:.4f}" for name, value in r.metrics.items()}
        for r in runs
    ]
    table = _by_arm(runs)
    for labels in table.index:
        row = {HEADINGS[name]: plus_minus(*table.loc[labels, name]) for name in metrics.METRICS}
        rows.append({"labels": labels, "split": "all", "run": ""} | row)
    return pd.DataFrame(rows)


def difference_table(runs: list[Run]) -> pd.DataFrame:
    """Return one row a metric: soft minus hard on each split, their mean and its corrected interval."""
    table, rows = scores(runs).set_index(["labels", "split"]), []
    for name, interval in differences(runs).items():
        by_split = table.loc["soft", name] - table.loc["hard", name]
        row = {"metric": HEADINGS[name]} | {f"split {split}": f"{value:+.4f}" for split, value in by_split.items()}
        rows.append(row | {"mean": f"{interval.mean:+.4f}", "95 % interval": bounds(interval)})
    return pd.DataFrame(rows)


def last_epoch(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: the validation metrics after the last epoch."""
    return pd.DataFrame(
        [
            {"labels": run.spec.labels, "split": run.spec.split, "run": run_link(run)}
            | {heading: f"{run.history[name].iloc[-1]:.4f}" for name, heading in CURVES.items()}
            for run in runs
        ]
    )


def image_table(study: Study, runs: list[Run], n: int) -> pd.DataFrame:
    """Return at most n test images of split 0, from the least to the most ambiguous: distributions and places."""
    arms = {run.spec.labels: run for run in runs if run.spec.split == 0}
    run = next(iter(arms.values()))
    data, chosen = images_of(run.spec), spread_of_ambiguity(run.truth, min(n, len(run.index)))
    columns = {"image": [data.ids[i] for i in run.index[chosen]]}
    for name, rows in judged(arms, chosen).items():
        columns[name] = top_classes(rows, data.class_names)
    for arm, run in arms.items():
        columns[f"place, {arm}"] = [f"({x:.1f}, {y:.1f})" for x, y in map_of(study, run)[chosen]]
    return pd.DataFrame(columns)


def split_table(n_images: int, splits: int, truth) -> pd.DataFrame:
    """Return one row a split: the sizes of its parts, and how much each class leads in its test part."""
    rows = []
    for number in range(splits):
        parts = random_split(n_images, number)
        sizes = np.bincount(truth[parts.test].argmax(axis=1), minlength=truth.shape[1])
        shares = f"{sizes.min() / sizes.sum():.3f} to {sizes.max() / sizes.sum():.3f}"
        rows.append(
            {"split": number}
            | {name: len(part) for name, part in parts._asdict().items()}
            | {"class shares in test": shares}
        )
    return pd.DataFrame(rows)


def map_quality(study: Study, runs: list[Run]) -> pd.DataFrame:
    """Return one row an arm of split 0: how far its map is to be trusted, and how alike neighbours are."""
    rows = []
    for run in (run for run in runs if run.spec.split == 0):
        plane, trusted, among = map_of(study, run), "features not published", "features not published"
        if not run.published:
            trusted = f"{tsne.trustworthiness(run.features, plane):.4f}"
            among = f"{tsne.neighbour_agreement(run.truth, run.features):.4f}"
        rows.append(
            {
                "labels": run.spec.labels,
                "run": run_link(run),
                "trustworthiness": trusted,
                "neighbour agreement, map": f"{tsne.neighbour_agreement(run.truth, plane):.4f}",
                "neighbour agreement, features": among,
            }
        )
    return pd.DataFrame(rows)


def parameter_table(study: Study) -> pd.DataFrame:
    """Return one row a parameter: its value in this study and its meaning."""
    values = asdict(study) | study.shared
    return pd.DataFrame(
        [
            {
                "parameter": f"`{name}`",
                "value": f"`{values[name]}`" if values[name] != "" else "",
                "meaning": field.metadata["doc"],
            }
            for name, field in valid_parameters().items()
        ]
    )


def markdown_table(frame: pd.DataFrame, name: str = "table") -> str:
    """Return a table as Markdown with a link to it as CSV.

    Text stands to the left, numbers to the right with equal decimals within a column.
    """
    columns = [_texts(column.tolist()) for _, column in frame.items()]
    bare = [[plain(text) for text in column] for column in columns]
    numeric = [any(column) and all(_NUMBER.fullmatch(text) for text in column if text) for column in bare]
    lines = [list(frame.columns), ["---:" if n else ":---" for n in numeric], *zip(*columns, strict=True)]
    heads = [plain(column) for column in frame.columns]
    csv = pd.DataFrame(dict(enumerate(bare))).to_csv(index=False, header=heads)
    address = "data:text/csv;base64," + base64.b64encode(csv.encode()).decode()
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f'\n\n<a class="csv" download="{name}.csv" href="{address}" aria-label="this table as CSV">CSV</a>'
    )


def _texts(values: list) -> list[str]:
    digits = max((len(str(v).partition(".")[2]) for v in values if isinstance(v, float)), default=0)
    return ["–" if pd.isna(v) else f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in values]


def plain(cell: str) -> str:
    """Return a text without the marks of bold type, code and links."""
    link = r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(#[\w-]+\)"  # its text may hold an interval in brackets
    return re.sub(link, r"\1", cell).replace("**", "").replace("`", "").removeprefix("–")


def fill(text: str, named: Mapping[str, str | Callable[[], str]], where: str) -> tuple[str, dict[str, str]]:
    """Replace every ``{{ name }}`` of a text; return it and what was printed, by name.

    Raises
    ------
    InputError
        Naming file and line, on an unknown placeholder.
    """
    printed = {}

    def value(match: re.Match) -> str:
        if match[1] not in named:
            line = text.count("\n", 0, match.start()) + 1
            raise InputError(
                f"{where}, line {line}: unknown placeholder '{match[1]}'; valid: {', '.join(sorted(named))}"
            )
        found = named[match[1]]
        printed[match[1]] = found() if callable(found) else found
        return printed[match[1]]

    return re.sub(r"\{\{\s*(.*?)\s*\}\}", value, text), printed


def record(study: Study, runs: list[Run], printed: dict[str, str]) -> dict:
    """Return what it takes to compute printed numbers again: the study, the runs' keys and the texts."""
    asked = {"profile": study.profile, **study.changed}
    return {"study": asked, "runs": [run.name for run in runs], "printed": printed}


class Said:
    """Markdown that a notebook shows, with the record of its numbers in the output's metadata."""

    def __init__(self, text: str, made_of: dict):
        self.text, self.made_of = text, made_of

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": self.text, "text/plain": self.text}, {"beyond_hard_labels": self.made_of}


def say(text: str, study: Study, runs: list[Run]) -> Said:
    """Return Markdown for a notebook: text with its numbers and tables filled in."""
    filled, printed = fill(text, texts(study, runs), "this cell")
    return Said(filled, record(study, runs, printed))


def show(content):
    """Return a table or a text as Markdown for a notebook, so that the book's style applies to it."""
    from IPython.display import Markdown

    return Markdown(content if isinstance(content, str) else markdown_table(content))
