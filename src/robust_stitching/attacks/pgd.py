"""FGSM (Goodfellow et al., 2015) and PGD (Madry et al., 2018): steps of a fixed length."""

from dataclasses import dataclass

from torch import Tensor, nn

from robust_stitching.attacks.loop import Attacked, attack, finite_or_zero, value_and_gradient
from robust_stitching.attacks.losses import Loss, cross_entropy
from robust_stitching.attacks.threat import Source, Threat
from robust_stitching.basics.modes import attackable

USUAL_WAY = 2.5  # radii that all steps together go, so that any point of the ball can be reached


def usual_step(epsilon: float, steps: int) -> float:
    """2.5 · epsilon / steps (Madry et al., 2018), but never more than the ball is wide."""
    return min(USUAL_WAY / steps, 2) * epsilon


def step_warnings(epsilon: float, step_size: float, steps: int) -> tuple[str, ...]:
    """What is to be said of a step that cannot bring an attack to the edge of its ball, or that
    throws it from edge to edge: a sentence, or none."""
    way = steps * step_size
    many = f"{steps} steps of {step_size:.4g}" if steps > 1 else f"one step of {step_size:.4g}"
    if way < epsilon * (1 - 1e-6):
        return (
            f"{many} go {way:.4g} at most, which is less than the radius {epsilon:.4g}: the attack "
            f"cannot reach what it is said to reach; a step of {epsilon / steps:.4g} just can, "
            f"{usual_step(epsilon, steps):.4g} is usual.",
        )
    if step_size > 2 * epsilon * (1 + 1e-6):
        return (
            f"a step of {step_size:.4g} is longer than the whole ball of radius {epsilon:.4g} is "
            "wide: the attack only jumps between its edges; at most "
            f"{2 * epsilon:.4g} makes sense, {usual_step(epsilon, steps):.4g} is usual.",
        )
    return ()


@dataclass
class FixedStep:
    """A step of `size` along the steepest direction, then back into the ball."""

    threat: Threat
    size: float

    def next(self, x: Tensor, images: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        return self.threat.project(x + self.size * self.threat.direction(gradient), images)

    def last(self, x: Tensor, loss: Tensor) -> Tensor:
        return x

    def keep(self, rows: Tensor) -> None:
        """Nothing is known of single images."""


def fgsm(
    network: nn.Module, images: Tensor, labels: Tensor, threat: Threat, loss: Loss = cross_entropy
) -> Attacked:
    """One step of length epsilon from the image itself."""
    return attack(network, images, labels, loss, FixedStep(threat, threat.epsilon), images, 1)


def pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float,
    generator: Source,
    loss: Loss = cross_entropy,
) -> Attacked:
    """`steps` steps of `step_size` from a uniformly random start in the ball."""
    start = threat.uniform_start(images, generator)
    return attack(network, images, labels, loss, FixedStep(threat, step_size), start, steps)


def worst_images(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    start: Tensor,
    steps: int,
    step_size: float,
    loss: Loss = cross_entropy,
    targets: Tensor | None = None,
) -> Tensor:
    """The images after all steps of PGD, whether or not they were fooled before: for training,
    which wants the largest loss, not the first mistake."""
    stepper, x = FixedStep(threat, step_size), start
    with attackable(network):
        for _ in range(steps):
            value, gradient, _ = value_and_gradient(network, x, labels, loss, targets)
            x = stepper.next(x, images, value, finite_or_zero(gradient))
    return x.detach()
