"""What is known of the images of a split under attack: which attack fooled which, at which step.

Robust accuracy over several attacks counts an image as right only if it is right as it is and under
every one of them: the worst case per image, never a minimum of accuracies.

Of an image with attributes each answer is counted so: an attribute is robust if it is right as it
is and in the image that each attack came up with (see `attacks.loop`), which is the one with the
most wrong answers.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from robust_stitching.basics.labels import per_image
from robust_stitching.data import AnySplit
from robust_stitching.evaluation.suites import Suite

WORST = "worst case"


@dataclass(frozen=True)
class Part:
    """What a batch of n images under a suite adds to what is known, on the CPU.

    Attributes
    ----------
    start : the place of its first image in the split.
    right, steps, no_gradient, not_finite : of these images, see `Robustness`.
    places : of the images that some attack fooled, (k,), int64.
    images : what they were changed into, (k, C, H, W).
    """

    start: int
    right: Tensor
    steps: dict[str, Tensor]
    no_gradient: Tensor
    not_finite: Tensor
    places: Tensor
    images: Tensor


@dataclass
class Robustness:
    """What is known so far of the images of a split under a suite, on the CPU.

    Attributes
    ----------
    labels : (N,), or (N, A) for attributes.
    right : which answers are right unattacked, bool of the shape of the labels.
    steps : attack to the step at which it made a right answer wrong, of the shape of the labels; −1
        where not, or not tried.
    cumulative : the attacks that were only run on what all before them had left.
    images : for each image the adversarial one with the most wrong answers, the first of those with
        equally many, else the original; None where they are not kept.
    no_gradient : images at which the gradient of the cross-entropy is zero.
    not_finite : images whose logits, losses or gradients were not finite, now or under attack.
    done : how many images have been attacked.
    """

    labels: Tensor
    right: Tensor
    steps: dict[str, Tensor]
    cumulative: tuple[str, ...]
    images: Tensor | None
    no_gradient: Tensor
    not_finite: Tensor
    done: int = 0
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, split: AnySplit, attacks: Suite, keep_images: bool = True) -> "Robustness":
        """Nothing known yet."""
        labels = split.labels.cpu()
        originals = split.batches(1000) if keep_images else ()
        return cls(
            labels=labels,
            right=torch.zeros_like(labels, dtype=torch.bool),
            steps={name: torch.full_like(labels, -1) for name in attacks.attacks},
            cumulative=attacks.cumulative,
            images=torch.cat([images.cpu() for images, _ in originals]) if keep_images else None,
            no_gradient=torch.zeros(len(labels), dtype=torch.bool),
            not_finite=torch.zeros(len(labels), dtype=torch.bool),
        )

    def add(self, part: Part) -> None:
        """Take in the batch behind those that are known."""
        rows = slice(part.start, part.start + len(part.right))
        self.right[rows] = part.right
        for name, steps in part.steps.items():
            self.steps[name][rows] = steps
        self.no_gradient[rows], self.not_finite[rows] = part.no_gradient, part.not_finite
        if self.images is not None:
            self.images[part.places] = part.images
        self.done = rows.stop

    def attacked(self) -> Tensor:
        """Which images had a right answer to attack, of shape (N,)."""
        return per_image(self.right) > 0

    def tried(self, attack: str) -> Tensor:
        """Which images an attack was run on, of shape (N,)."""
        if attack not in self.cumulative:
            return self.attacked()
        before = list(self.steps)[: list(self.steps).index(attack)]
        return per_image(~self._fooled_by(before)) > 0

    def fooled(self, attack: str) -> Tensor:
        """Which answers are wrong under an attack, or under any (`WORST`), of the labels' shape.

        Under a cumulative attack those that were wrong before it are wrong: it was not tried there.
        """
        names = list(self.steps)
        if attack in self.cumulative:
            return self._fooled_by(names[: names.index(attack) + 1])
        return self._fooled_by(names if attack == WORST else [attack])

    def _fooled_by(self, attacks: list[str]) -> Tensor:
        """Which answers are wrong as they are or under one of some attacks."""
        return torch.stack([~self.right, *(self.steps[name] >= 0 for name in attacks)]).any(dim=0)

    def accuracies(self) -> dict[str, float]:
        """Attack to accuracy in [0, 1]; the worst case of every answer last."""
        return {name: (~self.fooled(name)).double().mean().item() for name in (*self.steps, WORST)}

    def clean_accuracy(self) -> float:
        """Accuracy on the same images, unattacked."""
        return self.right.double().mean().item()
