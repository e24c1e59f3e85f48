"""Packs: the runs of a study in a few small files, to be carried to another machine.

A pack is one tar archive without compression, cut into at most eight files of at most 16 MiB, ``NAME.tar.0``,
``NAME.tar.1``, ...; ``cat NAME.tar.* | tar t`` lists it. It holds folders of runs and checkpoints as they lie in the
store, which are held against the checksums that they carry before anything lands.
"""

import io
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import checkpoints, store
from beyond_hard_labels.runs.spec import RunSpec

MOST_PARTS, PART_BYTES = 8, 16 << 20
_RUN_FILES = "|".join(map(re.escape, (*store.FILES, "manifest.json")))
_STEP = r"[0-9]{6}-[0-9]{6}\.(json|safetensors)"
_NAME = re.compile(rf"runs/[0-9a-f]{{12}}/({_RUN_FILES})|checkpoints/[0-9a-f]{{12}}/{_STEP}")


class Packed(NamedTuple):
    """What was packed, and what was left out for want of room, named as ``runs/KEY/spec.json``."""

    parts: list[Path]  # the files of the pack
    names: list[str]
    left_out: list[str]


def check(path: Path) -> Path:
    """Return the path of a pack without ``.tar``; raise `InputError` if nothing can be written there."""
    path = Path(path)
    if not path.parent.is_dir() or not path.name:
        raise InputError(f"the pack's name is '{path}', expected a file's name in a folder that exists")
    return path.with_name(path.name.removesuffix(".tar"))


def pack(specs: list[RunSpec], path: Path) -> Packed:
    """Pack the fresh runs of some specs and the last checkpoints of the others; replaces an older pack.

    Results come first, then checkpoints, then weights. If nothing is finished or begun, nothing is written.
    """
    path, build, names, left_out, made = check(path), paths.build_folder(), [], [], io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for group in _groups(specs):
            contents = {name: (build / name).read_bytes() for name in group}
            size = sum(2 * tarfile.BLOCKSIZE + len(content) for content in contents.values())
            known = len(group) > 1 or f"{Path(group[0]).parent}/manifest.json" in names  # weights need the rest
            fits = known and made.tell() + size + tarfile.RECORDSIZE <= MOST_PARTS * PART_BYTES
            (names if fits else left_out).extend(group)
            for name, content in contents.items() if fits else ():
                member = tarfile.TarInfo(name)  # without date and owner
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    parts = [path.with_name(f"{path.name}.tar.{number}") for number in range(MOST_PARTS)]
    pieces = [made.getvalue()[i * PART_BYTES : (i + 1) * PART_BYTES] for i in range(MOST_PARTS)]
    for part, piece in zip(parts, pieces, strict=True) if names else ():
        files.write(part, piece) if piece else files.remove(part)
    return Packed([part for part, piece in zip(parts, pieces, strict=True) if names and piece], names, left_out)


def _groups(specs: list[RunSpec]) -> list[list[str]]:
    """Return the names of what is to be packed, in groups of which each is of use as a whole only."""
    results, begun, weights = [], [], []
    for spec in dict.fromkeys(specs):
        if run := store.find(spec):
            own = [f"runs/{spec.key}/{name}" for name in ("manifest.json", *run.files)]
            results.append([name for name in own if not name.endswith(store.WEIGHTS)])
            weights += [[name] for name in own if name.endswith(store.WEIGHTS)]
        elif last := _last(checkpoints.folder_of(spec)):
            begun.append([f"checkpoints/{spec.key}/{name}" for name in (last, f"{last[:-5]}.safetensors")])
    return results + begun + weights


def unpack(parts: list[Path]) -> dict[str, str]:
    """Put what is in a pack, of which all files are given in any order, into the store; say what became of each.

    A run or a checkpoint lands whole or not at all, and none before all were held against their checksums. A fresh
    run that is there stays, and so does a checkpoint that is as far. Raises `InputError` if files are missing, damaged
    or of different packs, or hold anything else.
    """
    said, names = {}, ", ".join(map(str, parts))
    with tempfile.TemporaryDirectory() as hidden:
        try:
            for name, content in _read(sorted(map(Path, parts), key=lambda path: path.suffix)).items():
                files.write(Path(hidden, name), content)
            specs = {folder: _spec(folder) for folder in sorted(Path(hidden).glob("*/*"), reverse=True)}  # runs first
        except files.Unwritten:
            raise
        except Exception as error:  # whatever what is no pack makes its readers raise
            raise InputError(f"{names}: no pack, or not all of one: {error}; expected every file NAME.tar.N") from error
        for folder, spec in specs.items():
            name, target = f"{folder.parent.name}/{spec.key}", paths.build_folder() / folder.parent.name / spec.key
            with files.lock(paths.build_folder() / "locks" / spec.key, f"trains {spec.key}"):
                here = store.find(spec) or _last(target) >= _last(folder) > ""
                said[name] = "here already" if here else "put into the store"
                if not here:
                    with files.writing(target) as temporary:  # in the place of what is stale or damaged
                        shutil.copytree(folder, temporary)
    return said


def _read(parts: list[Path]) -> dict[str, bytes]:
    """Return the files of a pack by name; nothing is extracted by a member's own name, mode or type."""
    if len(parts) > MOST_PARTS or any(part.stat().st_size > PART_BYTES for part in parts):
        raise InputError(f"a pack has at most {MOST_PARTS} files of at most {PART_BYTES} bytes")
    whole, found = b"".join(part.read_bytes() for part in parts), {}
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
        for member in archive:
            if not _NAME.fullmatch(member.name) or not member.isreg() or member.issparse() or member.name in found:
                raise InputError(f"it holds {member.name!r:.100}, which is no file of a run or a checkpoint, or twice")
            found[member.name] = archive.extractfile(member).read()
        if any(whole[archive.offset :]) or len(whole) < archive.offset + 2 * tarfile.BLOCKSIZE:
            raise InputError("something is cut short, damaged or of another pack")  # the end, says tarfile
    return found


def _spec(folder: Path) -> RunSpec:
    """Return the spec of a run or a checkpoint; raise if it is none, or not as it was stored."""
    of_run = folder.parent.name == "runs"
    spec = store.load(folder).spec if of_run else RunSpec(**checkpoints.read(folder / _last(folder))[0]["spec"])
    if spec.key != folder.name:
        raise InputError(f"the spec of {folder.name} is that of {spec.key}")
    return spec


def _last(folder: Path) -> str:
    """Return the name of the last checkpoint in a folder, nothing if there is none."""
    return max((path.name for path in folder.glob("[0-9]*.json")), default="")
