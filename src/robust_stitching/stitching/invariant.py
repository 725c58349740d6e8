"""Images that a front takes for others, after arXiv 2505.20142 (v2).

That a map can be found from a front to an end says that what the front passes on is enough. Whether
the two also share invariances shows on images x̃ to which the front is blind: A(x̃) = A(x) at the
cut, however little x̃ looks like x. From uniform noise, `STEPS` steps of 1/255 are taken along the
sign of the gradient of

    ‖A(x̃) − A(x)‖_F / ‖A(x)‖_F

downwards, the front in evaluation mode; x̃ stays in [0, 1], in no ball around x. Norms are over a
batch there. But the gradient of an image differs from that of its own squared distance by a
positive factor, the same for the whole batch, so its sign depends on that image alone; and noise
belongs to an image's place (see `attacks.draws`). So what comes out does not depend on how images
stand in batches, but for gradients so near to 0 that rounding has their sign. Noise is drawn on the
grid of k/255, which the steps do not leave: 8 bits hold the images exactly. Of all iterates of an
image the one with the least residual is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robust_stitching.attacks.draws import BLOCK, draws_at
from robust_stitching.attacks.loop import finite_or_zero, value_and_gradient
from robust_stitching.basics.modes import attackable, without_tf32
from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints.state import DAMAGE, StateFile
from robust_stitching.data import AnySplit, Split
from robust_stitching.data.augment import as_float
from robust_stitching.data.split import laid_out
from robust_stitching.graphs import graph
from robust_stitching.plans.actions import Stitched
from robust_stitching.plans.parts import INVARIANT
from robust_stitching.stitching.fit import Cut

NAME = "invariant_images"
STEPS = 200
LEVELS = 256
"""Of a pixel. A step goes from one to the next."""

ESTIMATOR = (
    f"{STEPS} sign steps of 1/{LEVELS - 1} from uniform noise, the iterate with the least residual "
    "‖A(x̃) − A(x)‖ / ‖A(x)‖ at the cut kept; mean over images where A(x) is not 0, and of all "
    "images as one batch"
)


@dataclass(frozen=True)
class InvariantImages:
    """Images that a front takes for those of a split.

    Attributes
    ----------
    split : the images in place of the real ones, with their labels, not augmented: what the front
        makes of a crop of x̃ is not what it makes of that crop of x.
    residuals, residuals_of_noise : ‖A(x̃) − A(x)‖ / ‖A(x)‖ of each image, float64 of shape (N,),
        and of the noise that it began as; without the denominator where that is 0.
    norms : ‖A(x)‖, float64 of shape (N,).
    """

    split: Split
    residuals: Tensor
    residuals_of_noise: Tensor
    norms: Tensor

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the JSON report."""
        return {
            "steps": STEPS,
            "step_size": 1 / (LEVELS - 1),
            "residual": self._mean(self.residuals),
            "residual_of_noise": self._mean(self.residuals_of_noise),
            "batch_residual": self._together(self.residuals),
            "batch_residual_of_noise": self._together(self.residuals_of_noise),
        }

    def tensors(self) -> dict[str, Tensor]:
        """For a file: images and labels, in the order of the split, with the residual of each."""
        values = {
            "images": self.split.images,
            "labels": self.split.labels,
            "residuals": self.residuals,
            "residuals_of_noise": self.residuals_of_noise,
        }
        return {name: value.cpu() for name, value in values.items()}

    def _mean(self, residuals: Tensor) -> float | None:
        defined = residuals[self.norms > 0]
        return defined.mean().item() if len(defined) else None

    def _together(self, residuals: Tensor) -> float | None:
        """As of one batch."""
        whole = self.norms.norm()
        apart = residuals * torch.where(self.norms > 0, self.norms, 1.0)
        return (apart.norm() / whole).item() if whole > 0 else None


def images_for(
    front: Cut,
    train: AnySplit,
    plan: Stitched,
    seed: int,
    progress: Progress = silent,
    state: StateFile | None = None,
) -> InvariantImages | None:
    """What a map behind a front is trained on in place of `train`; None for the real images.

    Parameters
    ----------
    state : where the images are kept meanwhile, and gone on with.
    """
    return invariant_to(front, train, seed, progress, state) if plan.images == INVARIANT else None


def invariant_to(
    front: Cut,
    split: AnySplit,
    seed: int = 0,
    progress: Progress = silent,
    state: StateFile | None = None,
    batch_size: int = BLOCK,
) -> InvariantImages:
    """Images that a network takes for those of `split` up to a layer.

    Parameters
    ----------
    seed : of the noise.
    batch_size : images at a time; changes nothing but speed and memory.
    """
    making = _Making(front, split, seed)
    making.run(progress, state or StateFile(), batch_size)
    split = Split(split.name, making.images, split.labels, split.classes, source=split.source)
    return InvariantImages(split, making.squares.sqrt(), making.of_noise.sqrt(), making.norms)


def noise_at(places: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    """What images at `places` (N,) begin as: uint8 of shape (N, *shape)."""
    return draws_at(places, seed, "invariant").rand(*shape).mul_(LEVELS).byte()


def stepped(pixels: Tensor, gradient: Tensor) -> Tensor:
    """uint8 `pixels` one level down the gradient of theirs, where that is not 0."""
    return (pixels.short() - gradient.sign().short()).clamp_(0, LEVELS - 1).byte()


def _squared(seen: Tensor, wanted: Tensor, norms: Tensor) -> Tensor:
    """The squared residual of each image, (N,)."""
    return (seen - wanted).flatten(1).div(norms[:, None]).square().sum(dim=1)


class _Making:
    """Images in the making, batch by batch. All that it has is kept with a state, so that it goes
    on bit for bit.

    Attributes
    ----------
    images : the best iterates, uint8 of shape (N, C, H, W).
    squares, of_noise : their squared residuals, and those of the noise, (N,).
    norms : of what the front makes of the real images, (N,).
    done, step, now : how many images have all their steps, how many steps the next batch has, and
        its iterate; None for none.
    """

    def __init__(self, front: Cut, split: AnySplit, seed: int):
        network, layer = front
        self.layer, self.split, self.seed = layer, split, seed
        self.piece = graph.features(network, [layer])
        n, size, device = len(split), split.image_size, split.device
        self.shape = split.channels, size, size
        self.images = torch.zeros(n, *self.shape, dtype=torch.uint8, device=device)
        self.squares, self.of_noise, self.norms = torch.zeros(
            3, n, dtype=torch.float64, device=device
        )
        self.done, self.step = 0, 0
        self.now: Tensor | None = None

    def run(self, progress: Progress, state: StateFile, batch_size: int) -> None:
        """Make what is not made yet."""
        self._take_up(state)
        n = len(self.split)
        if self.done == n:
            return
        with (
            attackable(self.piece),
            without_tf32(),
            state.watching(),
            progress(n * STEPS, f"invariant images, {self.layer}", " steps") as bar,
        ):
            bar.initial = bar.n = self.done * STEPS
            for images, _ in self.split.between(self.done, n).batches(batch_size):
                self._batch(images, bar, state)
        state.keep(self._state, now=True)

    def _batch(self, images: Tensor, bar: Any, state: StateFile) -> None:
        rows = slice(self.done, self.done + len(images))
        with torch.no_grad():
            wanted = self._seen(images.clone())
        norms = wanted.flatten(1).norm(dim=1)
        scale = torch.where(norms > 0, norms, 1)
        if self.now is None:
            places = torch.arange(rows.start, rows.stop)
            self.now = noise_at(places, self.shape, self.seed).to(images.device)
            self.images[rows], self.squares[rows], self.norms[rows] = self.now, torch.inf, norms
        bar.update(self.step * len(images))
        while True:
            x = laid_out(as_float(self.now).to(images))
            found, gradient, _ = value_and_gradient(self._seen, x, wanted, _squared, scale)
            if self.step == 0:
                self.of_noise[rows] = found
            better = found < self.squares[rows]
            self.squares[rows] = torch.where(better, found, self.squares[rows])
            rather = better.view(-1, 1, 1, 1)
            self.images[rows] = torch.where(rather, self.now, self.images[rows])
            if self.step == STEPS:
                break
            self.now = stepped(self.now, finite_or_zero(gradient))
            self.step += 1
            bar.update(len(images))
            state.keep(self._state)
            state.after_step(self._state)
        self.done, self.step, self.now = rows.stop, 0, None

    def _seen(self, images: Tensor) -> Tensor:
        return self.piece(images)[0]

    def _state(self) -> Mapping[str, Any]:
        kept = ("images", "squares", "of_noise", "norms", "done", "step", "now")
        return {name: getattr(self, name) for name in kept}

    def _take_up(self, state: StateFile) -> None:
        kept = state.read()
        if kept is None:
            return
        try:
            for name in ("images", "squares", "of_noise", "norms"):
                getattr(self, name).copy_(kept[name])
            self.done, self.step, self.now = kept["done"], kept["step"], kept["now"]
            if self.now is not None:
                self.now = self.now.to(self.split.device)
        except DAMAGE as error:
            raise state.damaged(error) from error
