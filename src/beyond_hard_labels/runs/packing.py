"""Packs: the runs of a study in a few small files, to be carried to another machine.

A pack is one tar archive without compression, cut into at most eight files of at most 16 MiB,
``NAME.tar.0``, ``NAME.tar.1``, ...; ``cat NAME.tar.* | tar t`` lists it. Its first member ``pack.json`` says the
checksum of every other one, and what was left out for want of room.

Results come first, then the last checkpoint of each unfinished run, then weights. A run that is put into a
store without its weights says so itself (`store.LEFT_OUT`).
"""

import contextlib
import hashlib
import io
import json
import re
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import store
from beyond_hard_labels.runs.spec import RunSpec

MOST_PARTS, PART_BYTES = 8, 16 << 20
_WEIGHTS, _INDEX = "weights.safetensors", "pack.json"
_RUN_FILES = "|".join(map(re.escape, (*store.FILES, "manifest.json", store.LEFT_OUT)))
_STEP = r"[0-9]{6}-[0-9]{6}\.(json|safetensors)"
_NAME = re.compile(rf"runs/[0-9a-f]{{12}}/({_RUN_FILES})|checkpoints/[0-9a-f]{{12}}/{_STEP}")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError)
_UNREADABLE += (tarfile.TarError, zipfile.BadZipFile)


class Packed(NamedTuple):
    """What was packed: the files of the pack, and the names in it and left out, as ``runs/KEY/spec.json``."""

    parts: list[Path]
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

    Nothing is written, and an older pack left as it is, if no run is finished or begun.
    """
    path, groups, chosen, left_out = check(path), _groups(specs), {}, []
    used = 3 * tarfile.RECORDSIZE + 256 * sum(map(len, groups))  # the index, and the archive's end
    for group in groups:
        needed = sum(2 * tarfile.BLOCKSIZE + file.stat().st_size for file in group.values())
        if used + needed > MOST_PARTS * PART_BYTES:
            left_out += group
            continue
        used += needed
        chosen |= {name: file.read_bytes() for name, file in group.items()}
    if not chosen:
        return Packed([], [], left_out)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in chosen.items()}
    index = json.dumps({"files": checksums, "left_out": left_out}).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in {_INDEX: index, **chosen}.items():
            member = tarfile.TarInfo(name)  # without date and owner: the same pack, the same bytes
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole, parts = made.getvalue(), [path.with_name(f"{path.name}.tar.{number}") for number in range(MOST_PARTS)]
    for number, part in enumerate(parts):
        if piece := whole[number * PART_BYTES : (number + 1) * PART_BYTES]:
            files.write(part, piece)
        else:
            files.remove(part)
    return Packed(parts[: -(-len(whole) // PART_BYTES)], list(chosen), left_out)


def _groups(specs: list[RunSpec]) -> list[dict[str, Path]]:
    """Return what is to be packed, file by name, in groups of which each is of use as a whole only."""
    results, checkpoints, weights = [], [], []
    for spec in dict.fromkeys(specs):
        if run := store.find(spec):
            more = [store.LEFT_OUT] if (run.folder / store.LEFT_OUT).is_file() else []
            named = {f"runs/{spec.key}/{name}": run.folder / name for name in ("manifest.json", *run.files, *more)}
            results.append({name: file for name, file in named.items() if file.name != _WEIGHTS})
            weights += [{name: file} for name, file in named.items() if file.name == _WEIGHTS]
        elif about := sorted((paths.build_folder() / "checkpoints" / spec.key).glob("[0-9]*.json")):
            pair = (about[-1], about[-1].with_suffix(".safetensors"))
            checkpoints.append({f"checkpoints/{spec.key}/{file.name}": file for file in pair})
    return [group for group in results + checkpoints + weights if all(file.is_file() for file in group.values())]


def unpack(parts: list[Path]) -> dict[str, str]:
    """Put the runs of a pack, of which all files are given in any order, into the store.

    A run or a checkpoint lands whole or not at all, and none before everything was held against its checksum.
    A fresh run that is there stays, unless it is equal and only lacks files that the pack has.

    Returns
    -------
    dict of str to str
        What became of each, in words, by ``runs/KEY`` or ``checkpoints/KEY``.

    Raises
    ------
    InputError
        If files are missing, cut short, changed, or of different packs, or hold anything else.
    """
    contents, left_out = _read(sorted(map(Path, parts), key=lambda path: path.suffix))
    folders = sorted({name.rpartition("/")[0] for name in contents}, reverse=True)  # runs before checkpoints
    build, said, landing = paths.build_folder(), {}, {}
    with contextlib.ExitStack() as stack:
        for name in ("unpack", *sorted({folder.partition("/")[2] for folder in folders})):
            stack.enter_context(files.lock(build / "locks" / name, f"unpacks {name}"))
        files.sweep(build / "unpacked")
        hidden = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacked.", dir=build)))
        for name, content in contents.items():
            (hidden / name).parent.mkdir(parents=True, exist_ok=True)
            (hidden / name).write_bytes(content)
        for folder in folders:
            if folder.startswith("runs/"):
                without = [Path(name).name for name in left_out if name.startswith(f"{folder}/")]
                lands, said[folder] = _judge_run(hidden / folder, without)
            else:
                lands, said[folder] = _judge_checkpoint(hidden / folder, build / folder, said)
            landing |= {hidden / folder: build / folder} if lands else {}
        for new, target in landing.items():
            with files.writing(target) as temporary:  # in the place of what is stale, damaged, or equal and less
                new.rename(temporary)
    return said


def _read(parts: list[Path]) -> tuple[dict[str, bytes], list[str]]:
    """Return the files of a pack by name, and the names of those left out, after all checks of the pack itself."""
    names = ", ".join(map(str, parts))
    try:
        if len(parts) > MOST_PARTS or any(part.stat().st_size > PART_BYTES for part in parts):
            raise ValueError(f"a pack has at most {MOST_PARTS} files of at most {PART_BYTES} bytes")
        with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts)), mode="r:") as archive:
            found = {}
            for member in archive:  # nothing is extracted by its own name, mode or type
                if not (member.name == _INDEX and not found) and not _NAME.fullmatch(member.name):
                    raise ValueError(f"it holds {member.name!r:.100}, which is no file of a run or a checkpoint")
                if not member.isreg() or member.issparse() or member.name in found:
                    raise ValueError(f"its {member.name} is a link, or there twice")
                found[member.name] = archive.extractfile(member).read()
        index = json.loads(found.pop(_INDEX))
        for name, checksum in index["files"].items():
            if name not in found or hashlib.sha256(found[name]).hexdigest() != checksum:
                raise ValueError(f"its {name} is not there, or not what was packed")
        if more := found.keys() - index["files"]:
            raise ValueError(f"its index does not name {min(more)}")
        if not all(_NAME.fullmatch(name) for name in index["left_out"]):
            raise ValueError("its index names what is no file of a run")
    except _UNREADABLE as error:
        raise InputError(f"{names}: no pack, or not all of one: {error}; expected every file NAME.tar.N") from error
    return found, index["left_out"]


def _judge_run(new: Path, without: list[str]) -> tuple[bool, str]:
    """Return whether a run lands, and what becomes of it in words; raise if it is none."""
    try:
        if without not in ([], [_WEIGHTS]):
            raise ValueError(f"it lacks {', '.join(without)}")
        if without:
            files.write_json(new / store.LEFT_OUT, without)
        run = store.load(new)
        if run.spec.key != new.name:
            raise ValueError(f"its spec is that of {run.spec.key}")
    except (*_UNREADABLE, InputError) as error:
        raise InputError(f"the pack's run {new.name} is not taken: {error}") from error
    if there := store.find(run.spec):
        sealed = [each.manifest["files"] for each in (there, run)]
        if other := sorted(name for name in {*there.files} & {*run.files} if sealed[0][name] != sealed[1][name]):
            return False, f"kept as it is here: fresh, and with another {', '.join(other)}"
        if not set(run.files) - set(there.files):
            return False, "here already"
    return True, " without ".join(["put into the store", *without])


def _judge_checkpoint(new: Path, target: Path, said: dict[str, str]) -> tuple[bool, str]:
    """Return whether a checkpoint lands, and what becomes of it in words."""
    here = max((file.name for file in target.glob("[0-9]*.json")), default="")
    needed = f"runs/{new.name}" not in said and here < max((file.name for file in new.glob("*.json")), default="")
    return needed, "put into the store" if needed else "not needed: what is here is as far or farther"
