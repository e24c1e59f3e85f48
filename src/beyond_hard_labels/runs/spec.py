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

import hashlib
import json
from dataclasses import asdict, dataclass

from beyond_hard_labels.base.parameters import option
from beyond_hard_labels.data.votes import LABEL_KINDS, TIE_POLICIES
from beyond_hard_labels.learn.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunSpec(TrainConfig):
    """One run: a training config and what it is trained on."""

    dataset: str = option("name of the set: synthetic, or that of a file of images and votes")
    n_images: int = option("images of the whole set", at_least=5)
    image_size: int = option("side in pixels", at_least=16)
    data_seed: int = option("seed of the generated set", at_least=0)
    labels: str = option("kind of label trained on", choices=LABEL_KINDS)
    train_share: float = option("share of the split's training images that is used", above=0.0, at_most=1.0)
    votes_per_image: int = option("votes a label is made of; 0: all, or the exact truth", at_least=0)
    label_smoothing: float = option("share of a target that is spread over all classes", at_least=0.0, at_most=0.5)
    ties: str = option("what a hard label does with tied votes", choices=TIE_POLICIES)
    raters: str = option("whose votes count: all, or those who labelled every image", choices=("all", "complete"))
    split_kind: str = option("random, or slice: by the folds of the set", choices=("random", "slice"))
    split: int = option("number of the split; seeds everything in the run", at_least=0)

    @property
    def key(self) -> str:
        """Name of the run: the first 12 hexadecimal digits of the hash of its spec.

        A local weights file counts by its checksum, not by where it lies.
        """
        spec = asdict(self)
        if spec["weights_sha256"]:
            spec["weights"] = "file"
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
