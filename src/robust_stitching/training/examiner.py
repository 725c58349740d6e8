"""A look at the network after each epoch: accuracy on the test split, and under a short attack."""

from dataclasses import dataclass

from torch import nn

from robust_stitching.attacks import Threat, pgd
from robust_stitching.data import AnySplit
from robust_stitching.data.split import generator_for
from robust_stitching.evaluation import evaluate
from robust_stitching.training.objectives import Adversary
from robust_stitching.training.trainer import EpochRecord, Metrics

CHECKED_IMAGES = 500
COLLAPSE = 0.5
WORTH_A_WARNING = 0.2  # below this there was no robustness to lose


@dataclass(frozen=True)
class Examiner:
    """Scores a network on `test`; where there is an adversary, also under PGD with its radius, step
    and number of steps, on `CHECKED_IMAGES` images."""

    test: AnySplit
    adversary: Adversary | None = None

    def __call__(self, network: nn.Module) -> Metrics:
        found = evaluate(network, self.test)
        return Metrics(found.loss, found.accuracy, self._under_attack(network))

    def _under_attack(self, network: nn.Module) -> float | None:
        if self.adversary is None:
            return None
        ((images, labels),) = self.test.sample(CHECKED_IMAGES).batches(CHECKED_IMAGES)
        attacked = pgd(
            network,
            images,
            labels,
            Threat(self.adversary.epsilon),
            steps=self.adversary.perturb_steps,
            step_size=self.adversary.step_size,
            generator=generator_for(self.adversary.seed),
        )
        return 1 - attacked.fooled.double().mean().item()


def collapsed(history: list[EpochRecord]) -> bool:
    """Whether the last epoch's accuracy under attack fell below half of the best one so far, as it
    does when a network learns to hide its gradients or to overfit the attack."""
    robust = [record.test_robust_accuracy for record in history]
    if not robust or robust[-1] is None:
        return False
    return max(robust) > WORTH_A_WARNING and robust[-1] < COLLAPSE * max(robust)
