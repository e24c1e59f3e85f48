"""Rows on training: against files and a DataLoader, against the bare step, in two processes, on a GPU."""

import functools
import os
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.harness import Line, Open, Result, cores, require, self_timed, summary
from beyond_hard_labels.base.rng import stream
from beyond_hard_labels.data import votes
from beyond_hard_labels.data.images import LabelledImages, Split
from beyond_hard_labels.learn import augment, models
from beyond_hard_labels.learn.config import schedule
from beyond_hard_labels.learn.train import _autocast, train
from beyond_hard_labels.runs import ensure, inputs
from beyond_hard_labels.runs.study import plan

MEMORY_BUDGET = 1.5  # GB of a process's own, beside the mapped set


class Case:
    """A training by `training.train`, with the batches that it made in its first epoch."""

    def __init__(self, n_images, n_train, profile="quick", **overrides):
        self.spec = plan(profile, n_images=n_images, epochs=2, **overrides).spec("soft", 0)
        self.data = inputs.images_of(self.spec)
        self.targets = votes.targets(self.data.truth, "soft")
        rows = stream("benchmark", 0).permutation(n_images)
        self.split = Split(np.sort(rows[:n_train]), rows[-4:-2], rows[-2:])  # next to nothing to predict

    def run(self, epochs=2):
        """Train; return what `train` returns, and the seconds of the last epoch."""
        ends = []
        spec = replace(self.spec, epochs=epochs)
        trained = train(
            self.data, self.targets, self.split, spec, seed=0, on_epoch=lambda *_: ends.append(time.perf_counter())
        )
        return trained, ends[-1] - ends[-2] if epochs > 1 else float("nan")

    def batches(self):
        """Return the batches of the first epoch as the network sees them: images, targets, rates."""
        seen = []
        forward = models.Classifier.forward

        def recording(model, x):
            if model.training:
                seen.append(x.detach().clone())
            return forward(model, x)

        with patch.object(models.Classifier, "forward", recording):
            self.run(epochs=1)
        rows = self.split.train[stream("order", 0, 0).permutation(len(self.split.train))]
        y = torch.from_numpy(self.targets.rows.astype(np.float32)).to(self.spec.device)
        targets = [y[torch.from_numpy(part)] for part in np.array_split(rows, len(seen))]
        factors = [schedule(replace(self.spec, epochs=1), i / len(seen)) for i in range(len(seen))]
        return list(zip(seen, targets, factors, strict=True))

    def network(self):
        """Return the network and its optimiser as `train` makes them."""
        spec, (n_classes, channels) = self.spec, (self.data.truth.shape[1], self.data.images.shape[1])
        model = models.build(spec, n_classes, channels, 0).to(spec.device, memory_format=torch.channels_last)
        rates = {"lr": spec.learning_rate, "momentum": spec.momentum, "weight_decay": spec.weight_decay}
        return model, torch.optim.SGD(model.parameters(), **rates, fused=True)

    def steps(self, model, optimiser, batches, *, by_schedule=False):
        """Do a forward, a backward and a step a batch, and nothing else."""
        model.train()
        for x, y, factor in batches:
            if by_schedule:
                optimiser.param_groups[0]["lr"] = self.spec.learning_rate * factor
            with _autocast(self.spec):
                logits, _ = model(x)
            loss = -(y * logits.float().log_softmax(1)).sum(1).sum() / len(x)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def bare(self, batches):
        """Return a side that measures an epoch of bare steps on ready batches."""
        model, optimiser = self.network()

        def side():
            torch.set_num_threads(self.spec.threads)
            torch.use_deterministic_algorithms(False)  # the peer is not held back by a promise that it does not make
            started = time.perf_counter()
            self.steps(model, optimiser, batches)
            self.wait()
            return time.perf_counter() - started

        return side

    def wait(self):
        """Wait for the device."""
        if self.spec.device == "cuda":
            torch.cuda.synchronize()

    def require_bare_is_ours(self, batches):
        """Require that bare steps on the same batches make the weights that `train` makes, bit by bit."""
        trained, _ = self.run(epochs=1)  # leaves torch deterministic
        model, optimiser = self.network()
        self.steps(model, optimiser, batches, by_schedule=True)
        same = all(torch.equal(trained.state[name], t.detach().cpu()) for name, t in model.state_dict().items())
        require(same, "bare steps on the same batches make other weights")

    def parts(self):
        """Return the seconds that each part of an epoch of ours takes, measured around each call."""
        spent = dict.fromkeys(("augmentation", "forward", "backward", "optimiser"), 0.0)

        def timed(part, function):
            @functools.wraps(function)
            def wrapper(*arguments, **named):
                self.wait()
                started = time.perf_counter()
                try:
                    return function(*arguments, **named)
                finally:
                    self.wait()
                    spent[part] += time.perf_counter() - started

            return wrapper

        places = {
            "augmentation": (augment, "augment"),
            "forward": (models.Classifier, "forward"),
            "backward": (torch.Tensor, "backward"),
            "optimiser": (torch.optim.SGD, "step"),
        }
        with ExitStack() as stack:
            for part, (owner, name) in places.items():
                stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
            started = time.perf_counter()
            self.run(epochs=1)
            whole = time.perf_counter() - started
        return spent | {"start, order, loss and the rest": whole - sum(spent.values())}


def epoch(small, folder):
    """Train an epoch of the small network: against files and a DataLoader, and against the bare step."""
    sizes = (200, 120) if small else (15_000, 9_000)
    case = Case(*sizes, threads=cores())
    batches = case.batches()
    case.require_bare_is_ours(batches)
    loaded, workers = _loader_sides(case, folder, cores())
    sides = {"ours": lambda: case.run()[1], "bare": case.bare(batches), "loader": loaded[workers]}
    seconds = self_timed(sides, 1 if small else 3)
    what, n = f"epoch of {sizes[1]:,} images, small, 32 px", sizes[1]
    lines = [
        Line(what, f"PNG files, Pillow, DataLoader, {workers} workers", seconds["ours"], seconds["loader"], 2.5),
        Line(what, f"bare steps, {cores()} threads", seconds["ours"], seconds["bare"], 0.93),
    ]
    profile = case.parts()
    alone = Case(*sizes, threads=1)
    again = self_timed({"ours": lambda: alone.run()[1], "bare": alone.bare(batches)}, 1 if small else 3)
    lines.append(Line(what, "bare steps, 1 thread", again["ours"], again["bare"], 0.93))
    speeds = {name: n / side.median for name, side in seconds.items()}
    note = (
        f"Images a second: ours {speeds['ours']:,.0f}, bare {speeds['bare']:,.0f}, DataLoader "
        f"{speeds['loader']:,.0f} with {workers} workers, the best of {', '.join(map(str, loaded))}."
    )
    equal = (
        "weights after an epoch, bit by bit, of bare steps on our batches; images of the loader without augmentation"
    )
    return Result(lines, equal, note, profile)


def densenet(small, folder):
    """Train a tenth of an epoch of DenseNet121 at 32 px, against the bare step."""
    n_train = 8 if small else 900
    case = Case(2 * n_train, n_train, backbone="densenet121", threads=cores(), batch_size=4 if small else 128)
    batches = case.batches()
    case.require_bare_is_ours(batches)
    seconds = self_timed({"ours": lambda: case.run()[1], "bare": case.bare(batches)}, 1 if small else 3)
    what = f"{n_train:,} images, DenseNet121, 32 px"
    line = Line(what, f"bare steps, {cores()} threads", seconds["ours"], seconds["bare"], 0.97)
    return Result([line], "weights after all steps, bit by bit", profile=case.parts())


def _loader_sides(case, folder, most_workers):
    """Return by number of workers a side that trains an epoch the usual way, and the best number.

    The usual way is a folder of PNG files, opened by Pillow, transformed by torchvision, collected by a
    DataLoader.
    """
    from PIL import Image
    from torchvision.transforms import v2

    places = folder / "png"
    places.mkdir()
    for row in case.split.train:
        Image.fromarray(case.data.images[row].transpose(1, 2, 0)).save(places / f"{row:06d}.png")
    turns = [v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
    zoom = v2.RandomAffine(0, scale=(1 / 0.99, 1 / 0.80), interpolation=v2.InterpolationMode.BILINEAR)
    augmented = [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomApply([v2.RandomChoice(turns)], p=0.5),
        v2.RandomApply([zoom], p=0.3),
    ]
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    plain = Files(places, case, v2.Compose(to_tensor))
    first = torch.stack([plain[i][0] for i in range(8)])
    ours = augment.scale(torch.from_numpy(case.data.images[case.split.train[:8]]))
    require(torch.allclose(first, ours, atol=1e-6), "the loader's images without augmentation are others")
    files, sides, tried = Files(places, case, v2.Compose(augmented + to_tensor)), {}, {}
    for workers in range(most_workers + 1):
        sides[workers] = _loader_side(case, files, workers)
        sides[workers]()  # starts its workers, which stay
        tried[workers] = sides[workers]()
    return sides, min(tried, key=tried.get)


class Files(torch.utils.data.Dataset):
    """A folder of images, as a user would read it."""

    def __init__(self, folder: Path, case: Case, transform):
        self.paths = sorted(folder.iterdir())
        self.targets = torch.from_numpy(case.targets.rows[case.split.train].astype(np.float32))
        self.transform = transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        from PIL import Image

        with Image.open(self.paths[i]) as file:
            return self.transform(file.convert("RGB")), self.targets[i]


def _loader_side(case, files, workers):
    model, optimiser = case.network()
    loader = torch.utils.data.DataLoader(
        files,
        case.spec.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=case.spec.device == "cuda",
    )

    def side():
        torch.set_num_threads(case.spec.threads)
        torch.use_deterministic_algorithms(False)
        started = time.perf_counter()
        device, form = case.spec.device, torch.channels_last
        batches = (
            (x.to(device, non_blocking=True, memory_format=form), y.to(device, non_blocking=True), 1) for x, y in loader
        )
        case.steps(model, optimiser, batches)
        case.wait()
        return time.perf_counter() - started

    return side


@contextmanager
def _own_build_folder(folder):
    """Keep the runs of a side to itself."""
    with patch.dict(os.environ, BHL_BUILD_DIR=str(folder)):
        yield


def study(small, folder):
    """Train six runs in two processes of one thread each, against one after another with all cores."""
    sizes = {"n_images": 60, "epochs": 1, "image_size": 16, "batch_size": 16} if small else {"epochs": 3}

    def trained(name, workers, threads, splits=1 if small else 3):
        started = time.perf_counter()
        with _own_build_folder(folder / name):
            found = ensure.ensure(plan("quick", **sizes, threads=threads, splits=splits), workers=workers)
        return time.perf_counter() - started, found

    ours, of_two = trained("two", 2, 1)
    peer, _ = trained("all", 1, cores())
    _, of_one = trained("one", 1, 1, splits=1)
    for run, again in zip(of_two, of_one, strict=False):
        require(run.spec == again.spec, "the runs are others")
        same = np.array_equal(run.stored("test_logits"), again.stored("test_logits"))
        require(same, f"{run.spec.labels} labels of split {run.spec.split} depend on the number of workers")
    what = f"{len(of_two)} runs of {of_two[0].spec.epochs} epochs, 2 workers of 1 thread"
    lines = [Line(what, f"one after another, {cores()} threads", summary([ours]), summary([peer]), 1.2)]
    note = "Starting the processes is counted, which longer runs feel less."
    return Result(lines, "predictions of two workers and of one, bit by bit, for the runs of split 0", note)


def memory(small, folder):
    """Train on a mapped set of 1.5 million images, and watch the memory of the process."""
    n, n_train = (1_500, 300) if small else (1_500_000, 30_000)
    spec = plan("quick", epochs=3, threads=cores()).spec("soft", 0)
    few, rows = _mapped(1_500, folder / "few.bin"), _spread(1_500, 300)
    in_memory = replace(few, images=np.array(few.images))
    pair = [train(d, votes.targets(d.truth, "soft"), rows, spec, seed=0).test_logits for d in (few, in_memory)]
    require(np.array_equal(*pair), "the mapped set gives other results than the same in memory")
    data, split = _mapped(n, folder / "images.bin"), _spread(n, n_train)
    seen, done = [], threading.Event()
    watch = threading.Thread(target=_watch, args=(seen, done))
    ends = []

    def end_epoch(_):
        seen.append(_memory())  # a short epoch may lie between two looks
        ends.append(seen[-1][0])

    watch.start()
    try:
        train(data, votes.targets(data.truth, "soft"), split, spec, seed=0, on_epoch=end_epoch)
    finally:
        done.set()
        watch.join()
    peaks = [
        max(own for at, own in seen if first < at <= last) for first, last in zip([0, *ends[:-1]], ends, strict=True)
    ]
    gigabytes, steps = data.images.nbytes / 1e9, -(-n_train // spec.batch_size)
    own = f"memory of {n:,} images of 32 px, mapped"
    lines = [
        Line(own, f"a budget of {MEMORY_BUDGET} GB", summary(peaks), summary([MEMORY_BUDGET]), 1, "GB"),
        Line(f"{own}, later epochs", "the first epoch", summary(peaks[1:]), summary(peaks[:1]), 0.95, "GB"),
        Line(own, "the set itself", summary(peaks), summary([gigabytes]), None, "GB"),
    ]
    note = (
        f"Highest memory of the process's own in each of {spec.epochs} epochs of {steps} steps, whose images are taken "
        "at random from the whole set; pages of the file, which the system takes back when it needs them, do not count."
    )
    return Result(lines, "predictions from a mapped set and from the same in memory, bit by bit, at a small size", note)


def _mapped(n, path):
    """Return a set of n images of 32 px that stay in a file."""
    tile = inputs.images_of(plan("quick").spec("soft", 0))
    copies = -(-n // len(tile.ids))
    with path.open("wb") as file:
        for _ in range(copies):
            file.write(tile.images[:n].tobytes())
    images = np.memmap(path, np.uint8, "c", shape=(n, *tile.images.shape[1:]))  # pages are read, and never written
    truth = np.tile(tile.truth, (copies, 1))[:n]
    return LabelledImages("mapped", images, truth, tile.class_names, tuple(map(str, range(n))))


def _spread(n, n_train):
    rows = stream("benchmark", 0).permutation(n)
    return Split(*(np.sort(part) for part in (rows[:n_train], rows[-20:-10], rows[-10:])))


def _watch(seen, done):
    while not done.wait(0.2):
        seen.append(_memory())


def _memory():
    """Return the time, and the memory in GB that is this process's own."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return time.monotonic(), own * 1024 / 1e9


def gpu(small, folder):
    """Train on a GPU as the paper's profile does: against the bare step and a DataLoader."""
    if not torch.cuda.is_available() and not small:
        raise Open("needs a GPU: make bench ROWS=gpu on a machine that has one")
    if torch.cuda.is_available():
        case = Case(
            *((300, 200) if small else (6_000, 4_000)), "paper", weights="none", class_weights=False, dropout=0.0
        )
    else:  # the toy size tests the row
        case = Case(40, 24, device="cpu", batch_size=8)
    batches = case.batches()
    loaded, workers = _loader_sides(case, folder, 0 if small else min(cores(), 16))
    sides = {"ours": lambda: case.run()[1], "bare": case.bare(batches), "loader": loaded[workers]}
    if case.spec.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        case.run()
        peak = torch.cuda.max_memory_allocated() / 1e9
    seconds = self_timed(sides, 1 if small else 3)
    n = len(case.split.train)
    what = f"epoch of {n:,} images, {case.spec.backbone}, {case.spec.image_size} px, {case.spec.dtype}"
    lines = [
        Line(what, f"PNG files, Pillow, DataLoader, {workers} workers", seconds["ours"], seconds["loader"], 2.5),
        Line(what, "bare steps", seconds["ours"], seconds["bare"], 0.93),
    ]
    speeds = ", ".join(f"{name} {n / side.median:,.0f}" for name, side in seconds.items())
    note = f"Images a second: {speeds}."
    if case.spec.device == "cuda":
        name = torch.cuda.get_device_name()
        note += f" {name}, peak memory of ours {peak:.1f} GB. {_break_even(case, batches, seconds['bare'].median)}"
    return Result(lines, "the loader's images without augmentation", note, case.parts())


def _break_even(case, batches, eager):
    """Say after how many images `torch.compile` has saved the time that it takes."""
    model, optimiser = case.network()
    compiled = torch.compile(model)
    started = time.perf_counter()
    case.steps(compiled, optimiser, batches)  # both sizes of batch
    case.wait()
    first = time.perf_counter() - started
    started = time.perf_counter()
    case.steps(compiled, optimiser, batches)
    case.wait()
    later = time.perf_counter() - started
    n = sum(len(x) for x, *_ in batches)
    if later >= eager:
        return f"torch.compile does not pay: {n / later:,.0f} images a second."
    epochs = (first - later) / (eager - later)
    return f"torch.compile gives {n / later:,.0f} images a second and pays after {epochs * n:,.0f} images."
