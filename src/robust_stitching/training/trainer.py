"""The training loop: steps, running metrics, and a state that can be resumed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.labels import are_right
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit, Unreadable
from robust_stitching.plans import Optimisation
from robust_stitching.training.objectives import Objective, Outcome
from robust_stitching.training.optimisation import (
    iterations_on,
    learning_rate,
    optimizer_for,
    precision_on,
)
from robust_stitching.training.whitened import Whitened

REFRESH_SECONDS = 0.5
"""How often the running loss is read off the device, for the bar and to notice NaN."""


class Diverged(UserError):
    """The loss or a weight is no longer a finite number."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training log; accuracies in [0, 1], None where nobody looked or attacked."""

    epoch: int
    iteration: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    train_robust_accuracy: float | None
    test_robust_accuracy: float | None
    seconds: float
    images_per_second: float


class Metrics(NamedTuple):
    """Mean loss, accuracy, and accuracy under attack (None where nothing was attacked)."""

    loss: float
    accuracy: float
    robust_accuracy: float | None = None


class Meter:
    """Sums over an epoch, kept on the device until somebody asks."""

    def __init__(self, device: torch.device):
        # loss, right answers, right answers under attack; of an image with attributes their share
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.images = self.attacked = 0

    def add(self, outcome: Outcome, labels: Tensor) -> None:
        answers = labels[0].numel()  # of one image
        right = are_right(outcome.logits, labels).sum().double() / answers
        robust = torch.zeros_like(right)
        if outcome.attacked is not None:
            k = len(outcome.attacked)
            robust = are_right(outcome.attacked, labels[:k]).sum().double() / answers
            self.attacked += k
        loss = outcome.loss.detach() * len(labels)
        self.sums += torch.stack([loss, right, robust]).to(self.sums)
        self.images += len(labels)

    def read(self) -> Metrics:
        """Means so far; waits for the device."""
        loss, right, robust = self.sums.tolist()
        n = max(self.images, 1)
        return Metrics(loss / n, right / n, robust / self.attacked if self.attacked else None)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "images": self.images, "attacked": self.attacked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums.copy_(state["sums"])
        self.images, self.attacked = state["images"], state["attacked"]


class Trainer:
    """A training in progress.

    Only parameters that require a gradient are trained. `after_step` and `after_epoch` are called
    with the trainer, where its state is consistent: that is the place to save or to stop.

    Parameters
    ----------
    network : on the device of `data`; put into training mode for each epoch.
    evaluate : looks at the network on the test split after each epoch.
    seed : of order and augmentation.
    optimizer : of these parameters; that of the config if left out.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        data: AnySplit,
        config: Optimisation,
        evaluate: Callable[[nn.Module], Metrics] | None = None,
        seed: int = 0,
        optimizer: torch.optim.Optimizer | Whitened | None = None,
    ):
        self.network, self.objective, self.data, self.config = network, objective, data, config
        self.evaluate, self.seed = evaluate, seed
        self.device = data.device
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = optimizer or optimizer_for(self.parameters, config)
        self.steps_per_epoch = data.batches_per_epoch(config.batch_size)
        self.iterations = iterations_on(data, config)
        self.precision = precision_on(self.device, config.precision)
        self.iteration = 0
        self.meter = Meter(self.device)
        self.history: list[EpochRecord] = []
        self._spent = 0.0  # seconds of this epoch in earlier runs
        self._random: Tensor | None = None

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0; one ends with the look at the test split."""
        return len(self.history)

    def run(
        self,
        after_step: Callable[["Trainer"], None] = lambda trainer: None,
        after_epoch: Callable[["Trainer"], None] = lambda trainer: None,
        progress: Progress = silent,
        before_failing: Callable[["Trainer"], None] = lambda trainer: None,
    ) -> list[EpochRecord]:
        """Train to the end from wherever the state stands; returns the record of every epoch.

        Parameters
        ----------
        before_failing : called where images can no longer be read, with a consistent state.

        Raises
        ------
        Diverged : when the loss is NaN or infinite, noticed within half a second.
        Unreadable : when images cannot be read.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        images = self.config.epochs * len(self.data)
        with (
            torch.random.fork_rng(devices=devices),  # dropout draws from the global generators
            progress(images, "training", " images") as bar,
        ):
            self._restore_random()
            bar.initial = bar.n = self.images_seen()
            while self.epoch < self.config.epochs:
                bar.set_description(f"epoch {self.epoch + 1}/{self.config.epochs}", refresh=False)
                try:
                    self._run_epoch(after_step, bar)
                except Unreadable:
                    before_failing(self)
                    raise
                after_epoch(self)
        return self.history

    def images_seen(self) -> int:
        """By all steps so far."""
        epoch, steps = divmod(self.iteration, self.steps_per_epoch)
        return epoch * len(self.data) + steps * self.config.batch_size

    def _run_epoch(self, after_step: Callable[["Trainer"], None], bar: tqdm) -> None:
        self.network.train()
        spent_before = self._spent
        started = looked = time.perf_counter()
        for images, labels in self.data.epoch(
            self.config.batch_size, seed=self.seed, epoch=self.epoch, skip=self.steps_done
        ):
            self.step(images, labels)
            bar.update(len(labels))
            now = time.perf_counter()
            self._spent = spent_before + now - started
            if now - looked > REFRESH_SECONDS:
                bar.set_postfix_str(_told(self.read_meter()), refresh=False)
                looked = now
            if self.iteration % self.steps_per_epoch:
                after_step(self)
        self.close_epoch(self.evaluate and self.evaluate(self.network))
        after_step(self)

    @property
    def steps_done(self) -> int:
        """Of the epoch under way."""
        return self.iteration - self.epoch * self.steps_per_epoch

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step on a batch, the next one of the epoch under way."""
        lr = learning_rate(self.config, self.iteration, self.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        bfloat16 = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16), _enough_of(images):
            outcome = self.objective(self.network, images, labels, self.iteration)
        self.optimizer.zero_grad()
        outcome.loss.backward()
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        self.meter.add(outcome, labels)
        self.iteration += 1

    def close_epoch(self, test: Metrics | None, seconds: float | None = None) -> None:
        """Note an epoch whose last step was made.

        Parameters
        ----------
        test : what a look at the test split showed.
        seconds : that the epoch took, where somebody else has fed the steps.
        """
        train = self.read_meter()
        spent = self._spent if seconds is None else seconds
        self.history.append(
            EpochRecord(
                epoch=self.epoch + 1,
                iteration=self.iteration,
                lr=learning_rate(self.config, self.iteration - 1, self.iterations),
                train_loss=train.loss,
                train_accuracy=train.accuracy,
                test_loss=test and test.loss,
                test_accuracy=test and test.accuracy,
                train_robust_accuracy=train.robust_accuracy,
                test_robust_accuracy=test and test.robust_accuracy,
                seconds=round(spent, 3),
                images_per_second=round(len(self.data) / max(spent, 1e-9), 1),
            )
        )
        self.meter, self._spent = Meter(self.device), 0.0

    def read_meter(self) -> Metrics:
        """Means of the epoch so far; `Diverged` where the loss is not finite."""
        metrics = self.meter.read()
        if not math.isfinite(metrics.loss):
            raise self._diverged()
        return metrics

    def check_weights(self) -> None:
        """Raise `Diverged` unless every trained weight is finite."""
        if not all(bool(p.isfinite().all()) for p in self.parameters):
            raise self._diverged()

    def _diverged(self) -> Diverged:
        """The error, which is the same whenever somebody happens to look within an epoch."""
        epoch = (self.iteration - 1) // self.steps_per_epoch + 1
        return Diverged(
            f"the loss or a weight became NaN or infinite in epoch {epoch} of "
            f"{self.config.epochs}; try a smaller learning rate than {self.config.lr:g}."
        )

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on bit for bit: tensors and plain values only."""
        self.check_weights()
        cuda = self.device.type == "cuda"
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "steps_per_epoch": self.steps_per_epoch,
            "meter": self.meter.state_dict(),
            "seconds": self._spent,
            "history": [asdict(record) for record in self.history],
            "random": [torch.get_rng_state()]
            + ([torch.cuda.get_rng_state(self.device)] if cuda else []),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a training where `state_dict` left it, with the same network, data and config.

        Raises
        ------
        UserError : where an epoch had another number of batches: the data have changed.
        """
        history = state["history"]  # earlier versions kept no more than its iterations
        before = history[0]["iteration"] if history else self.steps_per_epoch
        before = state.get("steps_per_epoch", before)
        if before != self.steps_per_epoch:
            raise UserError(
                f"the training was begun with {before} batches an epoch, but now there are "
                f"{self.steps_per_epoch}: the images are others, or put into batches by another "
                "version; begin it anew."
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]
        self.meter.load_state_dict(state["meter"])
        self._spent = state["seconds"]
        self.history = [EpochRecord(**record) for record in state["history"]]
        self._random = state["random"]

    def _restore_random(self) -> None:
        if self._random is None:
            torch.manual_seed(self.seed)
            return
        torch.set_rng_state(self._random[0].cpu())
        for state in self._random[1:]:
            torch.cuda.set_rng_state(state.cpu(), self.device)


@contextmanager
def _enough_of(images: Tensor) -> Iterator[None]:
    """Say in a sentence what batch norms say of a single number a channel.

    Batches are folded so that none is of one image (see `data.split.sizes_of_epoch`) unless that is
    what was asked for; then the first step ends here, before anything is lost.
    """
    try:
        yield
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "of a batch of 1 image, batch norms of this network get a single number a channel, "
            "which cannot be normalised; train on 2 images at a time or more (`batch_size`)."
        ) from error


def _told(metrics: Metrics) -> str:
    text = f"loss {metrics.loss:.3f}, accuracy {metrics.accuracy:.2%}"
    robust = metrics.robust_accuracy
    return text if robust is None else f"{text}, under attack {robust:.2%}"
