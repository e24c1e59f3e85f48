"""Work in processes that end where a test says: ``python lives.py '[{...}, ...]'``.

Each life is a process of its own, forked from one that has imported everything and done nothing with
it, and calls ``bhl``. At the n-th event of a kind something may happen to it: it is killed or told to
stop, its time is up, or it waits till a life beside it has said its first word.
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch  # noqa: F401

from beyond_hard_labels import cli
from beyond_hard_labels.base import files, process
from beyond_hard_labels.learn import train
from beyond_hard_labels.runs import checkpoints, execute, store

for module in ("filelock", "safetensors.torch", "timm", "torch._dynamo", "beyond_hard_labels.data.shapes"):
    importlib.import_module(module)  # what a life would import for itself

EVENTS = {
    "step": (process, "check"),
    "epoch": (execute, "_show_progress"),
    "checkpoint": (checkpoints, "save"),
    "sync": (files, "_sync"),
    "store": (store, "write_npz"),
    "word": (files, "tell"),
}


def happen(what: str) -> None:
    said = Path(os.environ["BHL_BUILD_DIR"]) / "said"
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "time is up":
        train.time = SimpleNamespace(time=lambda: float("inf"))
    elif what == "say":
        said.touch()
    elif what == "wait":
        while not said.exists():
            time.sleep(0.01)
    else:
        os.kill(os.getpid(), {"term": signal.SIGTERM, "interrupt": signal.SIGINT}[what])


def arm(event: str, n: int, what: str) -> None:
    """Let something happen right before the n-th event from now on."""
    module, name = EVENTS[event]
    real, left = getattr(module, name), n

    def counting(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0:
            happen(what)
        return real(*arguments, **options)

    setattr(module, name, counting)


def live(build: str, arguments: list[str], at: list | None = None) -> int:
    os.environ["BHL_BUILD_DIR"] = build
    execute.CHECKPOINT_SECONDS = 0
    if at:
        arm(*at)
    return cli.main(arguments)


def main() -> None:
    codes, beside = [], []
    for life in json.loads(sys.argv[1]):
        together = life.pop("beside", False)
        if (child := os.fork()) == 0:
            code = live(**life)
            sys.stdout.flush()
            os._exit(code)
        beside.append(child)
        while beside and not together:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(beside.pop(0), 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
