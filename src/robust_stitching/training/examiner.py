"""A look at the network after each epoch: accuracy on the test split, and under a short attack."""

from dataclasses import dataclass

from torch import nn

from robust_stitching.attacks import Threat, pgd
from robust_stitching.attacks.pgd import usual_step
from robust_stitching.basics.labels import are_right
from robust_stitching.basics.modes import logits_of, without_tf32
from robust_stitching.basics.seeds import generator_for
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import evaluate
from robust_stitching.plans import Adversary
from robust_stitching.training.trainer import EpochRecord, Metrics

CHECKED_IMAGES = 500
CHECK_STEPS = 20
COLLAPSE = 0.5
WORTH_A_WARNING = 0.2  # below this there was no robustness to lose


@dataclass(frozen=True)
class Examiner:
    """Scores a network on `test`; where there is an adversary, also within its radius under
    PGD-20 as an evaluation runs it, whose step follows the radius and not the adversary's, on
    `CHECKED_IMAGES` images in full float32, from starts of the seed."""

    test: AnySplit
    adversary: Adversary | None = None
    seed: int = 0

    def __call__(self, network: nn.Module) -> Metrics:
        accuracy = evaluate(network, self.test)
        return Metrics(accuracy.loss, accuracy.accuracy, self._under_attack(network))

    def _under_attack(self, network: nn.Module) -> float | None:
        if self.adversary is None:
            return None
        ((images, labels),) = self.test.sample(CHECKED_IMAGES).batches(CHECKED_IMAGES)
        right = are_right(logits_of(network, images), labels)
        with without_tf32():
            attacked = pgd(
                network,
                images,
                labels,
                Threat(self.adversary.epsilon),
                steps=CHECK_STEPS,
                step_size=usual_step(self.adversary.epsilon, CHECK_STEPS),
                generator=generator_for(self.seed),
            )
        return (right & ~attacked.fooled).double().mean().item()


def collapsed(history: list[EpochRecord]) -> bool:
    """Whether the last epoch's accuracy under attack fell below half of the best one so far, as it
    does when a network learns to hide its gradients or to overfit the attack."""
    robust = [record.test_robust_accuracy for record in history]
    if not robust or robust[-1] is None:
        return False
    return max(robust) > WORTH_A_WARNING and robust[-1] < COLLAPSE * max(robust)
