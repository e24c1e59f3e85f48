"""Tables, sentences and numbers of a study, all computed from its runs.

Text names a number by a placeholder, ``{{ soft.kl }}``; `fill` puts it in and refuses an unknown one.
Notebooks do so through `say`, the book's Markdown pages when they are staged.
"""

import re
from dataclasses import asdict

import numpy as np
import pandas as pd

from beyond_hard_labels import InputError, embedding, metrics, votes
from beyond_hard_labels.images import LabelledImages, random_split
from beyond_hard_labels.real_data import SYNTHETIC
from beyond_hard_labels.runs import Run
from beyond_hard_labels.study import Study, valid_parameters
from beyond_hard_labels.votes import LABEL_KINDS

PAPER = {  # Table 1 of the paper, Synthetic: mean and standard deviation over three splits
    ("hard", "macro_accuracy"): (0.8247, 0.0500),
    ("hard", "kl"): (0.4137, 0.0836),
    ("soft", "macro_accuracy"): (0.9096, 0.0137),
    ("soft", "kl"): (0.0394, 0.0009),
}
HEADINGS = {
    "macro_accuracy": "macro accuracy ↑",
    "kl": "KL to soft truth ↓",
    "one_hot_kl": "KL to one-hot truth",
    "exact_kl": "KL unclipped ↓",
    "jensen_shannon": "Jensen-Shannon ↓",
    "manhattan": "Manhattan ↓",
    "brier": "Brier ↓",
    "calibration_error": "calibration error ↓",
    "entropy_correlation": "entropy correlation ↑",
}
_HIGHER_IS_BETTER = ("macro_accuracy", "entropy_correlation")
_TEST_SHARE = 0.2 / 0.6  # test images per training image, for the corrected interval


def scores(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: labels, split, key and every metric on its test images."""
    return pd.DataFrame(
        [{"labels": r.spec.labels, "split": r.spec.split, "key": r.spec.key, **r.metrics} for r in runs]
    )


def differences(runs: list[Run]) -> dict[str, metrics.Interval]:
    """Return, per metric, soft minus hard over the splits with the corrected interval."""
    table = scores(runs).set_index(["labels", "split"])
    return {
        name: metrics.corrected_t(table.loc["soft", name] - table.loc["hard", name], _TEST_SHARE)
        for name in metrics.METRICS
    }


def table_one(runs: list[Run]) -> pd.DataFrame:
    """Return the paper's Table 1 beside ours, mean ± standard deviation, the better arm in bold."""
    table = scores(runs).groupby("labels")[list(metrics.METRICS)].agg(["mean", "std"])
    ours = {
        (labels, name): tuple(table.loc[labels, name]) for labels in LABEL_KINDS for name in ("macro_accuracy", "kl")
    }
    rows = {}
    for source, values in (("paper", PAPER), ("this book", ours)):
        row = {}
        for name in ("macro_accuracy", "kl"):
            better = _better(values["soft", name][0], values["hard", name][0], name)
            for labels in LABEL_KINDS:
                text = plus_minus(*values[labels, name])
                row[f"{labels}: {HEADINGS[name]}"] = f"**{text}**" if labels == better else text
        rows[source] = row
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
    return frame[sorted(frame.columns, key=lambda column: column.split(":")[0])].reset_index()


def _better(soft: float, hard: float, name: str) -> str:
    return "soft" if (soft > hard) == (name in _HIGHER_IS_BETTER) else "hard"


def all_metrics(runs: list[Run]) -> pd.DataFrame:
    """Return one row a metric: both arms, and their difference with its corrected 95 % interval."""
    table = scores(runs).groupby("labels")[list(metrics.METRICS)].agg(["mean", "std"])
    rows = []
    for name, interval in differences(runs).items():
        row = {"metric": HEADINGS[name]}
        row |= {labels: plus_minus(*table.loc[labels, name]) for labels in LABEL_KINDS}
        better = _better(table.loc["soft", (name, "mean")], table.loc["hard", (name, "mean")], name)
        if name != "one_hot_kl":  # which arm should be near a one-hot truth is a matter of opinion
            row[better] = f"**{row[better]}**"
        row |= {
            "soft - hard": f"{interval.mean:+.4f}",
            "95 % interval": bounds(interval),
            "p": "< 0.001" if interval.p < 0.001 else f"{interval.p:.3f}",
        }
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={labels: f"{labels} labels" for labels in LABEL_KINDS})


def plus_minus(mean: float, deviation: float) -> str:
    """Format a mean and a standard deviation; a single run has none."""
    return f"{mean:.4f}" + ("" if pd.isna(deviation) else f" ± {deviation:.4f}")


def bounds(interval: metrics.Interval) -> str:
    """Format an interval; one split has none."""
    if pd.isna(interval.low):
        return "needs two splits"
    return f"[{interval.low:+.4f}, {interval.high:+.4f}]"


def verdict(interval: metrics.Interval, name: str) -> str:
    """Say what the interval of soft minus hard says, and how that stands to the paper.

    The paper finds soft labels better in both of its metrics.
    """
    size = f"a difference of {interval.mean:+.4f} (soft minus hard, 95 % interval {bounds(interval)})"
    sign = 1 if name in _HIGHER_IS_BETTER else -1
    worst, best = sorted((sign * interval.low, sign * interval.high))
    if worst > 0:
        return f"the soft arm is better, by {size}, which agrees with the paper"
    if best < 0:
        return f"the hard arm is better, by {size}, which contradicts the paper"
    return f"the arms cannot be told apart, with {size}, so the paper's advantage of soft labels does not show"


def numbers(study: Study, runs: list[Run]) -> dict[str, str]:
    """Return every number that text may name by a placeholder."""
    table = scores(runs).groupby("labels")[list(metrics.METRICS)].agg(["mean", "std"])
    named = {
        f"{labels}.{name}": plus_minus(*table.loc[labels, name]) for labels in LABEL_KINDS for name in metrics.METRICS
    }
    named |= {f"paper.{labels}.{name}": plus_minus(*value) for (labels, name), value in PAPER.items()}
    named |= {f"{labels}.epochs_to_90": _epochs_to(0.9, runs, labels) for labels in LABEL_KINDS}
    intervals = differences(runs)
    named |= {f"verdict.{name}": verdict(intervals[name], name) for name in ("macro_accuracy", "kl")}
    named |= {f"parameter.{name}": str(value) for name, value in study.shared.items()}
    named |= {"profile": study.profile, "protocol": study.protocol.replace("_", " "), "splits": str(study.splits)}
    named |= {"perplexity": f"{study.perplexity:g}", "tsne_iterations": str(study.tsne_iterations)}
    return named | {"images.test": str(len(runs[0].index)), "badge": badge(study, runs)}


def describe(data: LabelledImages) -> dict:
    """Return what a set holds, as plain values.

    Channel means and standard deviations are over all pixels, on the scale of [0, 1]; entropy in nats. A
    set with votes has three entries more: votes an image, least and most, and images with a tied lead.
    """
    moments = [_moments(data.images[:, c]) for c in range(data.images.shape[1])]
    sizes = np.bincount(data.truth.argmax(axis=1), minlength=len(data.class_names))
    described = {
        "name": data.name,
        "images": len(data.ids),
        "shape": list(data.images.shape[1:]),
        "channel_mean": [round(mean / 255, 4) for mean, _ in moments],
        "channel_std": [round(deviation / 255, 4) for _, deviation in moments],
        "majority": dict(zip(data.class_names, sizes.tolist(), strict=True)),
        "unanimous": round(float((data.truth.max(axis=1) == 1).mean()), 4),
        "mean_entropy": round(float(metrics.entropy(data.truth).mean()), 4),
    }
    if data.votes is None:
        return described
    cast = data.votes.sum(axis=1)
    tied = votes.targets(data.votes, "hard").tied
    return described | {"votes_least": int(cast.min()), "votes_most": int(cast.max()), "tied": int(tied.sum())}


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


def _moments(channel: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of bytes (N, H, W) by their histogram, without a float copy."""
    share = sum(np.bincount(image.ravel(), minlength=256) for image in channel) / channel.size
    mean = share @ np.arange(256)
    return float(mean), float(np.sqrt(share @ (np.arange(256) - mean) ** 2))


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


def spread_of_ambiguity(truth: np.ndarray, n: int) -> np.ndarray:
    """Return n rows, evenly spread from the least to the most ambiguous."""
    order = np.argsort(metrics.entropy(truth), kind="stable")
    return order[np.linspace(0, len(order) - 1, n).round().astype(int)]


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
    source = "generated on this machine" if study.shared["dataset"] == SYNTHETIC else "images and votes from a file"
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
        f"{study.protocol.replace('_', ' ')} · {study.splits} split(s) · trained on this machine, "
        f"{manifest['machine'].get('gpu', spec.device)}, {spec.dtype}, torch {manifest['versions']['torch']}"
    )


def run_table(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: what it is, its key, its wall time and its two headline metrics."""
    return pd.DataFrame(
        [
            {
                "labels": r.spec.labels,
                "split": r.spec.split,
                "run": f"`{r.spec.key}`",
                "tied training images": str(r.manifest["tied_training_images"]),
                "seconds": f"{r.manifest['seconds']:.0f}",
                "macro accuracy": f"{r.metrics['macro_accuracy']:.4f}",
                "KL": f"{r.metrics['kl']:.4f}",
            }
            for r in runs
        ]
    )


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


def map_quality(runs: dict[str, Run], planes: dict) -> pd.DataFrame:
    """Return one row an arm: how far its map is to be trusted, and how alike map neighbours are."""
    return pd.DataFrame(
        [
            {
                "labels": arm,
                "trustworthiness": f"{embedding.trustworthiness(features, plane):.4f}",
                "neighbour agreement, map": f"{embedding.neighbour_agreement(truth, plane):.4f}",
                "neighbour agreement, features": f"{embedding.neighbour_agreement(truth, features):.4f}",
            }
            for arm, plane in planes.items()
            for truth, features in [(runs[arm].truth, runs[arm].features)]
        ]
    )


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


def markdown_table(frame: pd.DataFrame) -> str:
    """Return a table as Markdown: text to the left, numbers to the right."""
    cells = [["–" if pd.isna(value) else str(value) for value in row] for row in frame.to_numpy(dtype=object)]
    numeric = [
        pd.to_numeric(pd.Series(c).str.strip("*–"), errors="coerce").notna().any() for c in zip(*cells, strict=True)
    ]
    lines = [list(frame.columns), ["---:" if n else ":---" for n in numeric], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(text: str, named: dict[str, str], where: str) -> str:
    """Replace every ``{{ name }}`` of a text; raise, naming file and line, on an unknown one."""

    def value(match: re.Match) -> str:
        if match[1] not in named:
            line = text.count("\n", 0, match.start()) + 1
            raise InputError(
                f"{where}, line {line}: unknown placeholder '{match[1]}'; valid: {', '.join(sorted(named))}"
            )
        return named[match[1]]

    return re.sub(r"\{\{\s*(.*?)\s*\}\}", value, text)


def say(text: str, study: Study, runs: list[Run]):
    """Return Markdown for a notebook: sentences with their numbers filled in."""
    return show(fill(text, numbers(study, runs), "this cell"))


def show(content):
    """Return a table or a text as Markdown for a notebook, so that the book's style applies to it."""
    from IPython.display import Markdown

    return Markdown(content if isinstance(content, str) else markdown_table(content))
