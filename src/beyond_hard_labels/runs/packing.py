"""Packs: the runs of a study in a few small files, to be carried to another machine.

A pack is at most eight zip archives ``NAME.0.zip``, ``NAME.1.zip``, ..., each under 16 MiB and without
compression. Each holds an ``index.json``, the same in all but its own number: every file with its
checksum, and how many bytes of it lie in which part; a file may be cut into pieces.

Results come first, then the last checkpoint of each unfinished run, then weights, as far as there is
room. What found none is named in the index and aloud, and a run that is put into a store without its
weights says so itself (`runs.LEFT_OUT`).
"""

import contextlib
import hashlib
import json
import re
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from beyond_hard_labels.base import files, paths
from beyond_hard_labels.base.errors import InputError
from beyond_hard_labels.runs import store
from beyond_hard_labels.runs.spec import RunSpec

MOST_PARTS, PART_BYTES = 8, 16 << 20
_WEIGHTS = "weights.safetensors"
_RUN_FILES = (*store.FILES, "manifest.json", store.LEFT_OUT)
_NAME = re.compile(
    rf"runs/[0-9a-f]{{12}}/({'|'.join(map(re.escape, _RUN_FILES))})"
    r"|checkpoints/[0-9a-f]{12}/[0-9]{6}-[0-9]{6}\.(json|safetensors)"
)
_PER_PART, _PER_FILE = 4096, 768  # bytes at most of what is not content: the index, the zip format's headers


class Packed(NamedTuple):
    """What was packed.

    Attributes
    ----------
    parts : list of Path
        None if no run is finished or begun; an older pack is then left as it is.
    names : list of str
        The files in it, as ``runs/KEY/spec.json``.
    left_out : list of str
        Those for which there was no room.
    """

    parts: list[Path]
    names: list[str]
    left_out: list[str]


def check(path: Path) -> Path:
    """Return the path of a pack without ``.zip``; raise `InputError` if nothing can be written there."""
    path = Path(path)
    if not path.parent.is_dir() or not path.name:
        raise InputError(f"the pack's name is '{path}', expected a file's name in a folder that exists")
    return path.with_name(path.name.removesuffix(".zip"))


def pack(specs: list[RunSpec], path: Path) -> Packed:
    """Pack the finished runs of some specs and the last checkpoints of the others; replaces an older pack.

    Parameters
    ----------
    specs : list of RunSpec
        Runs that are not in the build folder, or not fresh, are passed over.
    path : Path
        Name of the pack, with or without ``.zip``; part i gets ``.i.zip``.
    """
    path = check(path)
    groups = _groups(specs)
    used = [_PER_PART + _PER_FILE * sum(map(len, groups))] * MOST_PARTS
    index, pieces, left_out = {}, defaultdict(list), []
    for group in groups:
        names, contents = [name for name, _ in group], [file.read_bytes() for _, file in group]
        placed, room = _place(list(map(len, contents)), used)
        if placed is None:
            left_out += names
            continue
        used = room
        for name, content, places in zip(names, contents, placed, strict=True):
            index[name] = {"sha256": hashlib.sha256(content).hexdigest(), "pieces": places}
            start = 0
            for number, (part, size) in enumerate(places):
                pieces[part].append((_member(name, number, places), content[start : start + size]))
                start += size
    if not index:
        return Packed([], [], left_out)
    rest = {"parts": max(pieces) + 1, "files": index, "left_out": left_out}
    parts = [path.with_name(f"{path.name}.{number}.zip") for number in range(MOST_PARTS)]
    for number, part in enumerate(parts):
        if number >= rest["parts"]:
            files.remove(part)
            continue
        with files.writing(part) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for member, content in [("index.json", json.dumps({"part": number, **rest})), *pieces[number]]:
                archive.writestr(zipfile.ZipInfo(member), content)  # without a date: the same pack, the same bytes
    return Packed(parts[: rest["parts"]], list(index), left_out)


def _groups(specs: list[RunSpec]) -> list[list[tuple[str, Path]]]:
    """Return what is to be packed, name and file, in groups of which each is of use as a whole only."""
    results, checkpoints, weights = [], [], []
    for spec in dict.fromkeys(specs):
        run = store.find(spec)
        if run is None:
            folder = paths.build_folder() / "checkpoints" / spec.key
            if about := sorted(folder.glob("[0-9]*.json")):
                pair = (about[-1], about[-1].with_suffix(".safetensors"))
                checkpoints.append([(f"checkpoints/{spec.key}/{file.name}", file) for file in pair])
            continue
        more = [store.LEFT_OUT] if (run.folder / store.LEFT_OUT).is_file() else []
        named = [(f"runs/{spec.key}/{name}", run.folder / name) for name in ("manifest.json", *run.files, *more)]
        results.append([(name, file) for name, file in named if file.name != _WEIGHTS])
        weights += [[(name, file)] for name, file in named if file.name == _WEIGHTS]
    return [group for group in results + checkpoints + weights if all(file.is_file() for _, file in group)]


def _place(sizes: list[int], used: list[int]) -> tuple[list | None, list[int]]:
    """Return for files of some sizes how many bytes go into which part, if there is room, and what is used then."""
    used, placed = list(used), []
    for left in sizes:
        places = []
        for part, room in enumerate(PART_BYTES - 1 - u for u in used):
            take = min(left, room)
            if take > 0:
                places.append([part, take])
                used[part] += take
                left -= take
        if left:
            return None, used
        placed.append(places)
    return placed, used


def _member(name: str, number: int, places: list) -> str:
    return name if len(places) == 1 else f"{name}.{number}"


def unpack(paths: list[Path]) -> dict[str, str]:
    """Put the runs of a pack into the store, after every checksum; return what became of each run.

    A run or a checkpoint lands whole or not at all, and none before all parts are known to be whole. A
    fresh run that is there stays, unless it is equal and only lacks files that the pack has.

    Parameters
    ----------
    paths : list of Path
        All parts, in any order.

    Returns
    -------
    dict of str to str
        In words, by ``runs/KEY`` or ``checkpoints/KEY``.

    Raises
    ------
    InputError
        If parts are missing, cut short, changed, or of different packs, or hold anything else.
    """
    with contextlib.ExitStack() as stack:
        contents, left_out = _read(paths, stack)
    folders, staged, said = defaultdict(dict), {}, {}
    for name, content in contents.items():
        folder, _, file = name.rpartition("/")
        folders[folder][file] = content
    build = paths.build_folder()
    build.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for key in sorted({folder.partition("/")[2] for folder in folders}):
            stack.enter_context(files.lock(build / "locks" / key, f"unpacks {key}"))
        hidden = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacked-", dir=build)))
        for folder, found in sorted(folders.items(), reverse=True):  # runs before checkpoints
            new, target = hidden / folder, build / folder
            new.mkdir(parents=True)
            for file, content in found.items():
                (new / file).write_bytes(content)
            if folder.startswith("runs/"):
                said[folder] = _check_run(new, [name for name in left_out if name.startswith(f"{folder}/")])
            else:
                said[folder] = _check_checkpoint(new, target, f"runs/{target.name}" in said)
            if said[folder].startswith("put"):
                staged[new] = target
        for new, target in staged.items():
            with files.writing(target) as temporary:  # in the place of what is stale, damaged, or equal and less
                new.rename(temporary)
    return said


def _check_run(new: Path, left_out: list[str]) -> str:
    """Raise if a run is not one; else say what is to become of it."""
    without = [Path(name).name for name in left_out]
    try:
        if without not in ([], [_WEIGHTS]):
            raise ValueError(f"it lacks {', '.join(without)}")
        if without:
            files.write_json(new / store.LEFT_OUT, without)
        run = store.load(new)
        if run.spec.key != new.name:
            raise ValueError(f"its spec is that of {run.spec.key}")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"the pack's run {new.name} is not taken: {error}") from error
    put = f"put into the store{' without ' if without else ''}{', '.join(without)}"
    if (there := store.find(run.spec)) is None:
        return put
    common = set(there.files) & set(run.files)
    if other := sorted(name for name in common if there.manifest["files"][name] != run.manifest["files"][name]):
        return f"kept as it is here: fresh, and with another {', '.join(other)}"
    return put if set(run.files) - set(there.files) else "here already"


def _check_checkpoint(new: Path, target: Path, finished: bool) -> str:
    """Say what is to become of a checkpoint."""
    here = max((file.name for file in target.glob("[0-9]*.json")), default="")
    if finished or here >= max(file.name for file in new.iterdir() if file.suffix == ".json"):
        return "not needed: what is here is as far or farther"
    return "put into the store"


def _read(paths: list[Path], stack: contextlib.ExitStack) -> tuple[dict[str, bytes], list[str]]:
    """Return the files of a pack by name, and the names of those left out, after all checks of the pack itself."""
    archives, rest = {}, None
    for path in map(Path, paths):
        archive, part, found = _open(path, stack)
        if rest not in (None, found) or part in archives:
            raise InputError(
                f"{path} is a part of another pack than {next(iter(archives.values())).filename}, or twice"
            )
        archives[part], rest = archive, found
    if missing := sorted(set(range(rest["parts"])) - set(archives)):
        raise InputError(
            f"{len(archives)} of {rest['parts']} parts are given; part {', '.join(map(str, missing))} is missing"
        )
    expected = {part: {"index.json"} for part in archives}
    contents = {}
    for name, about in rest["files"].items():
        content = b""
        for number, (part, size) in enumerate(about["pieces"]):
            member = _member(name, number, about["pieces"])
            expected[part].add(member)
            content += _piece(archives[part], member, size)
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise InputError(f"{name} in the pack is not what was packed: another checksum")
        contents[name] = content
    for part, archive in archives.items():
        if more := sorted(set(archive.namelist()) - expected[part]):
            raise InputError(f"{archive.filename} holds {more[0]!r:.100}, which its index does not name")
    return contents, rest["left_out"]


def _open(path: Path, stack: contextlib.ExitStack) -> tuple[zipfile.ZipFile, int, dict]:
    """Open a part; return it, its number and the rest of its index, of which every field was looked at."""
    try:
        if (size := path.stat().st_size) >= PART_BYTES:
            raise ValueError(f"it has {size} bytes, expected less than {PART_BYTES}")
        archive = stack.enter_context(zipfile.ZipFile(path))
        index = json.loads(_piece(archive, "index.json", archive.getinfo("index.json").file_size))
        part, n, named, left_out = (index.pop(key) for key in ("part", "parts", "files", "left_out"))
        ok = not index and type(n) is type(part) is int and 0 <= part < n <= MOST_PARTS
        for name in (*named, *left_out):
            if not (ok and isinstance(name, str) and _NAME.fullmatch(name)):
                raise ValueError(f"its index names {name!r:.100}, which is no file of a run or a checkpoint")
        for about in named.values():
            pieces = [(type(p), type(size), 0 <= p < n, size > 0) for p, size in about["pieces"]]
            if set(about) != {"sha256", "pieces"} or set(pieces) != {(int, int, True, True)}:
                raise ValueError("its index does not say where every file is")
    except InputError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no part of a pack, or not a whole one: {error}") from error
    return archive, part, {"parts": n, "files": named, "left_out": left_out}


def _piece(archive: zipfile.ZipFile, member: str, size: int) -> bytes:
    """Return a member that was stored as it is and has the size that the index says."""
    try:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != size or info.flag_bits & 1:
            raise ValueError(f"{member} is not stored as its index says")
        return archive.read(info)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive.filename} is no part of a pack, or not a whole one: {error}") from error
