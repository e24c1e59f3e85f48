"""Work in processes that end where a test says: ``python lives.py '[{...}, ...]'``.

Each life is a process of its own, forked from one that has imported everything and done nothing with it, and
calls ``bhl``. It may end at the n-th event of a kind: before a step, at the end of an epoch, when a file
is brought to the disk, or when one of a run's own folder is.
"""

import json
import os
import signal
import sys
from types import SimpleNamespace

import torch  # noqa: F401

from beyond_hard_labels import checkpoints, cli, files, process, runs, study, training

EVENTS = {
    "step": (process, "check"),
    "epoch": (study, "_show_progress"),
    "checkpoint": (checkpoints, "save"),
    "sync": (files, "_sync"),
    "store": (runs, "_write_npz"),
}


def end(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "time":
        training.time = SimpleNamespace(time=lambda: float("inf"))
    else:
        os.kill(os.getpid(), {"term": signal.SIGTERM, "interrupt": signal.SIGINT}[how])


def arm(event: str, n: int, how: str) -> None:
    """End this process at the n-th event from now on."""
    module, name = EVENTS[event]
    real, left = getattr(module, name), n

    def counting(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0:
            end(how)
        return real(*arguments, **options)

    setattr(module, name, counting)


def live(build: str, arguments: list[str], ends: list | None = None) -> int:
    os.environ["BHL_BUILD_DIR"] = build
    study.CHECKPOINT_SECONDS = 0
    if ends:
        arm(*ends)
    return cli.main(arguments)


def main() -> None:
    codes = []
    for life in json.loads(sys.argv[1]):
        if (child := os.fork()) == 0:
            os._exit(live(**life))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
