"""Our attacks beside those that their authors published, where that package is installed."""

import pytest
import torch

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat, apgd, losses
from robust_stitching.basics.modes import evaluating
from robust_stitching.basics.seeds import generator_for
from robust_stitching.evaluation.robustness import WORST, robustness, suite

NORMS = {"linf": "Linf", "l2": "L2"}
TRADES = REPOSITORY / "archive/lenet/Digits/in0-gn0-trades-eps0.3/model.pt"


def archived(model, seed=0):
    path = REPOSITORY / "archive" / model / "Digits" / f"in{seed}-gn{seed}" / "model.pt"
    return checkpoints.load(path).network


@pytest.fixture
def in_float64():
    """There the size of a batch, which differs, cannot turn the sign of a gradient."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("model, seed", [("lenet", 0), ("lenet", 1), ("tiny10", 0)])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize(
    "epsilon, norm", [(8 / 255, "linf"), (0.1, "linf"), (0.2, "linf"), (1.0, "l2")]
)
def test_apgd_is_the_published_one(model, seed, loss, epsilon, norm, digits, in_float64):
    """The same start leads to the same images being fooled: with cross-entropy, which is attacked
    in another form here, as with DLR."""
    published = pytest.importorskip("pyautoattack.autopgd_base")
    network, threat = archived(model, seed).double(), Threat(epsilon, norm)
    x, y = next(digits[1].sample(60).batches(60))
    x, y = x[:24].double().contiguous(), y[:24]
    with torch.no_grad():
        right = network(x).argmax(dim=1) == y
    x, y = x[right], y[right]
    start = threat.boundary_start(x, generator_for(0)).contiguous()
    ours = {"ce": losses.cross_entropy, "dlr": losses.dlr}[loss]
    found = apgd(network, x, y, threat, steps=20, generator=None, loss=ours, start=start)
    reference = published.APGDAttack(
        network, n_iter=20, norm=NORMS[norm], eps=epsilon, loss=loss, device="cpu"
    )
    reference.init_hyperparam(x)
    _, right, _, _ = reference.attack_single_run(x, y, x_init=start)
    assert torch.equal(found.fooled, ~right)


@pytest.fixture
def short(monkeypatch):
    """The published AutoAttack with few steps and queries, whoever makes it."""
    autoattack = pytest.importorskip("pyautoattack")
    make = autoattack.AutoAttack.__init__

    def init(self, *args, **options):
        make(self, *args, **options)
        self.apgd.n_iter, self.apgd.n_restarts = 5, 1
        self.apgd_targeted.n_iter = self.fab.n_iter = 3
        self.square.n_queries = 10

    monkeypatch.setattr(autoattack.AutoAttack, "__init__", init)
    return autoattack


def authors_call(autoattack, network, images, labels, norm, epsilon):
    """Which images are right after the authors' own call, seeded as ours is."""
    theirs = autoattack.AutoAttack(network, norm=NORMS[norm], eps=epsilon, seed=0)
    _, answers = theirs.run_standard_evaluation(images.contiguous(), labels, batch_size=len(images))
    return answers == labels


@pytest.mark.parametrize("norm, epsilon", [("linf", 0.1), ("l2", 1.0)])
def test_autoattack_is_run_as_its_authors_run_it(norm, epsilon, digits, short):
    network, few = checkpoints.load(TRADES).network.requires_grad_(False), digits[1].sample(40)
    found = robustness(network, few, suite("standard", Threat(epsilon, norm), 10))
    left = authors_call(short, network, *next(few.batches(40)), norm, epsilon)
    ours, theirs = found.accuracies()["AutoAttack"], left.double().mean().item()
    assert ours == pytest.approx(theirs, abs=2 / 40)  # the starts differ
    assert 0 < theirs < found.clean_accuracy()
    default = robustness(network, few, suite("default", Threat(epsilon, norm), 10))
    assert default.accuracies()[WORST] <= ours + 1 / 40  # ours had more steps


def test_autoattack_finds_images_that_fool(digits, short):
    network, few = archived("lenet"), digits[1].sample(20)
    found = robustness(network, few, suite("standard", Threat(0.1), 10))
    assert list(found.accuracies()) == ["AutoAttack", WORST]
    moved = (found.images - next(few.batches(20))[0]).abs().amax(dim=(1, 2, 3))
    fooled = found.steps["AutoAttack"] >= 0
    assert fooled.any() and (moved[fooled] > 0).all() and (moved <= 0.1 + 1e-6).all()
    with evaluating(network):
        right = network(found.images).argmax(dim=1) == found.labels
    assert torch.equal(right, ~found.fooled(WORST))


@pytest.mark.slow
@pytest.mark.parametrize("norm, epsilon", [("linf", 0.1), ("l2", 1.0)])
def test_autoattack_in_full(norm, epsilon, digits):
    """The authors' own call leaves as many images; our default tier, with a fifth of the steps,
    leaves hardly more within l-inf, and some more within l2 around a network trained for l-inf."""
    autoattack = pytest.importorskip("pyautoattack")
    network, few = checkpoints.load(TRADES).network.requires_grad_(False), digits[1].sample(40)
    threat = Threat(epsilon, norm)
    found = robustness(network, few, suite("standard", threat, 10))
    left = authors_call(autoattack, network, *next(few.batches(40)), norm, epsilon)
    left = left.double().mean().item()
    assert found.accuracies()["AutoAttack"] == pytest.approx(left, abs=1 / 40)
    assert 0 < left < found.clean_accuracy()
    default = robustness(network, few, suite("default", threat, 10))
    more = default.accuracies()[WORST] - left
    assert -1 / 40 <= more <= {"linf": 1 / 40, "l2": 5 / 40}[norm]
