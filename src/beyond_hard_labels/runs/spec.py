"""What a run is named by: a training config, and what it is trained on."""

import hashlib
import json
from dataclasses import MISSING, dataclass, fields

from beyond_hard_labels.base.parameters import option
from beyond_hard_labels.data.annotators import CROWDS
from beyond_hard_labels.data.votes import TARGET_KINDS, TIE_POLICIES
from beyond_hard_labels.learn.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunSpec(TrainConfig):
    """One run: a training config and what it is trained on.

    A field that came after runs were published has a default, which is what they had: where a run has it, it is no part
    of the key, and a stored spec may lack it.
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
    crowd: str = option("simulated annotators who vote, and how they err", choices=CROWDS, default="exact")
    noise: float = option("how often they err", at_least=0.0, at_most=1.0, default=0.0)

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
