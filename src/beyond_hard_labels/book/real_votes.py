"""What the chapter on real votes shows of a set.

Every function makes one element of a `sections.Section`, or nothing where its parts are not here;
`source` is the one that says so.
"""

import numpy as np
import pandas as pd

from beyond_hard_labels.analysis import labels
from beyond_hard_labels.analysis.sections import Section
from beyond_hard_labels.book import plots, report
from beyond_hard_labels.data import fetch, sets
from beyond_hard_labels.learn import metrics
from beyond_hard_labels.runs.maps import map_of


def source(part: Section):
    """Say where the section's numbers come from, or why there are none."""
    if part.study is None:
        return report.show(part.why)
    more = "; `--set splits=3` trains three" if part.study.splits < 3 else ""
    trained = f"Trained on {part.study.counted} of this set{more}."
    made = part.runs[0].published_map()  # its own settings, whatever the study's
    perplexity = made[1]["perplexity"] if made else part.study.perplexity
    mapped = (
        f"The map shows the {len(part.runs[0].index):,} test images of split 0 at perplexity {perplexity:g}."
        if _mapped(part)
        else "These runs come without a map."
    )
    if part.runs[0].truth is None:
        mapped += " Votes do not come along, so its colours are by the shares that the soft arm predicts."
    lines = ["{{ badge }}", "{{ published }}", part.why or trained, mapped]
    return report.say("\n\n".join(lines), part.study, part.runs)


def card(part: Section):
    """Return the data card: size, classes, votes, ties, licence, pixels."""
    if part.data is None:
        return None
    found = sets.fingerprint(part.data.name)
    about = fetch.about(part.data.name)
    unknown = "not known: no file of a published set has this checksum"
    rows = {
        "votes": f"{part.data.votes.sum():,}",
        "official labels": "none" if part.data.official is None else "known",
        "single raters": "not known" if part.data.ratings is None else f"{part.data.ratings.shape[1]}",
        "pixels": about.get("pixels", "where they come from is not recorded"),
        "licence": about.get("licence", unknown),
        "citation": about.get("citation", unknown),
        "SHA-256 of the file": f"`{found[:16]}…`",
    }
    if "source" in about:
        rows["pixels"] = "as published in " + ", ".join(f"`{address}`" for address in about["source"].values())
    table = report.description(part.data)
    return report.show(pd.concat([table, pd.DataFrame(rows.items(), columns=table.columns)]))


def spread(part: Section):
    """Return the figure of how the votes are distributed."""
    if part.data is None:
        return None
    return plots.vote_spread(part.data.votes.sum(axis=1), part.data.truth.max(axis=1), metrics.entropy(part.data.truth))


def ambiguous(part: Section):
    """Return the figure of the most ambiguous images with their votes."""
    if part.data is None:
        return None
    shown = report.most_ambiguous(part.data.truth, 5)
    titles = [part.data.ids[i] for i in shown]
    return plots.images_with_votes(part.data.images[shown], part.data.votes[shown], titles, part.data.class_names)


def unequal(part: Section):
    """Say and show what a plain mean over unequal numbers of votes does."""
    if part.data is None:
        return None
    total = part.data.votes.sum(axis=1)
    few, many = total.min(), total.max()
    text = (
        "**Few votes and many.**\n"
        f"A plain mean gives every image the same weight, whether it stands on {few} votes or on {many}.\n"
        f"The standard error of a share is then up to {0.5 / np.sqrt(few):.3f} or up to {0.5 / np.sqrt(many):.3f}.\n\n"
        f"{report.markdown_table(labels.by_number(part.data.votes).round(4), f'{part.data.name}-votes')}"
    )
    if part.data.ratings is not None:
        raters = labels.by_raters(part.data.ratings, len(part.data.class_names)).round(4)
        text += (
            "\n\n`raters` is the parameter that chooses whose votes count: `all`, or the `complete` ones, who labelled "
            f"every image.\n\n{report.markdown_table(raters, f'{part.data.name}-raters')}"
        )
    return report.show(text)


def official(part: Section):
    """Show how crowd and official label agree, and how both arms stand to either."""
    if part.study is None:
        return None
    if part.runs[0].official_accuracy() is None:
        return report.show("**Crowd and official label.**\nAn official label is not known for this set.")
    text = "**Crowd and official label.**\nHow often the votes agree with it, and how both arms stand to either.\n\n"
    if part.data is not None:
        table = labels.agreement(part.data.votes, part.data.official, part.data.class_names).round(4)
        text += f"{report.markdown_table(table, f'{part.data.name}-official')}\n\n"
    return report.say(text + "{{ table.official }}", part.study, part.runs)


def scores(part: Section):
    """Return the scores of both arms beside the floor, and the temperature of each run."""
    if part.study is None:
        return None
    text = "**Both arms.**\nMean ± standard deviation over the splits, on test images; then the temperatures.\n\n"
    return report.say(text + "{{ table.votes }}\n\n{{ table.temperature }}", part.study, part.runs)


def class_maps(part: Section):
    """Return the figure of both arms' t-SNE maps of split 0, as the paper's Figure 2."""
    if not _mapped(part):
        return None
    arms = {run.spec.labels: run for run in part.runs if run.spec.split == 0}
    planes = {labels: map_of(part.study, run) for labels, run in arms.items()}
    colours = arms["soft"].predicted if arms["soft"].truth is None else arms["soft"].truth
    return plots.class_maps(planes, colours, tuple(arms["soft"].manifest["classes"]))


def _mapped(part: Section) -> bool:
    first = [run for run in part.runs if run.spec.split == 0]
    return part.study is not None and all(run.published_map() if run.published else True for run in first)
