"""What is known of published sets: ``known.yml``, read into records.

A set is known by the checksum of a file and never by its name alone: a user's own file may be called
``cifar10h``, and is not CIFAR-10H for that.
"""

from dataclasses import dataclass, field
from importlib import resources

import yaml


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published set."""

    name: str  # of its file in the data cache
    title: str  # what a reader calls it
    words: str  # what it holds
    files: dict[str, str | None]  # address: published checksum, ``md5:`` or ``sha256:`` in front; None if there is none
    licence: str
    citation: str
    classes: tuple[str, ...] | None = None  # all of them, where the files do not say
    pixels: dict[str, str] = field(default_factory=dict)  # SHA-256 of a known file of this set: whence its pixels

    @property
    def attribution(self) -> dict[str, str]:
        """What is to be said wherever the set is shown: title, licence and citation."""
        return {"title": self.title, "licence": self.licence, "citation": self.citation}


SETS = {
    name: Published(
        name=name,
        **facts | {"citation": ". ".join(facts["citation"]), "classes": tuple(facts.get("classes", ())) or None},
    )
    for name, facts in yaml.safe_load(resources.files(__package__).joinpath("known.yml").read_text("utf-8")).items()
}
