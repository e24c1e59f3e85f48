"""Where things lie."""

import os
from pathlib import Path


def build_folder() -> Path:
    """Return the folder of everything generated: BHL_BUILD_DIR, else ``build`` in the project."""
    return Path(os.environ.get("BHL_BUILD_DIR") or project_folder() / "build").resolve()


def published_folder() -> Path:
    """Return the folder of the published runs."""
    return project_folder() / "results"


def project_folder() -> Path:
    """Return the checkout that this package is installed from, else the current folder."""
    checkout = Path(__file__).resolve().parents[3]
    return checkout if (checkout / "_toc.yml").is_file() else Path.cwd()
