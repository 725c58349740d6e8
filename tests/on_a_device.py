"""Everything on a device that is not the CPU, without one: no operation holds tensors of two
devices, results are those of the CPU, and nothing waits for the device where it need not.

`test_device.py` runs these tests, in processes of their own: torch counts its devices at the first
backward pass, so the device has to be there before.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import robust_stitching as rs
from conftest import REPOSITORY
from pretended import NAME, Mismatch, device
from robust_stitching.basics.copying import copy_of
from robust_stitching.evaluation.robustness import robustness, suite
from robust_stitching.evaluation.suites import threat_on
from robust_stitching.plans import Adversary, Optimisation
from robust_stitching.stitching.record import numbers
from robust_stitching.training import Trainer
from robust_stitching.training.adversarial import objective_of

METER = "training/trainer.py: loss, right, robust = self.sums.tolist()"
"""What is waited for at the end of an epoch, and every few seconds, to be shown."""


@pytest.fixture
def waits():
    with device() as (_, counted):
        yield counted


@pytest.fixture(scope="module")
def donors(lenets):
    return [rs.load(path) for path in lenets]


def moved(donor, where):
    return replace(donor, network=copy_of(donor.network).to(where))


def test_the_device_is_as_strict_as_a_gpu(waits):
    one, other = torch.ones(3, device=NAME), torch.ones(3)
    assert one.device.type == NAME and (one + 1).device.type == NAME
    places = torch.tensor([0, 1], device=NAME)
    for wrong in (lambda: one + other, lambda: other @ one, lambda: other[places]):
        with pytest.raises(Mismatch):
            wrong()
    assert one[torch.tensor([0, 1])].shape == (2,)
    assert not waits
    assert (one + torch.tensor(1.0)).tolist() == [2, 2, 2]
    assert sum(waits.values()) == 1
    assert bool((one > 0).all()) and one[one > 0].shape == (3,)
    assert other.to(NAME).sum().item() == 3
    assert sum(waits.values()) == 4
    linear = torch.nn.Linear(3, 1).to(NAME)
    linear(one).sum().backward()
    assert linear.weight.grad.device.type == NAME


@pytest.mark.parametrize("kind", [None, "madry", "trades"])
@pytest.mark.parametrize("model", ["lenet", "tiny10"])
def test_training(kind, model, waits, lenets, tiny10s, digits):
    path = {"lenet": lenets, "tiny10": tiny10s}[model][0]
    train = digits[0].between(0, 96)
    settings = Optimisation(epochs=2, lr=0.01, batch_size=32, clip_norm=1)
    ended = []
    for where in ("cpu", NAME):
        network = rs.load(path).network.to(where)
        adversary = kind and Adversary(kind, perturb_steps=2)
        objective = objective_of(adversary, network, 6)
        trainer = Trainer(network, objective, train.to(where), settings, seed=0)
        trainer.run()
        ended.append({key: own.cpu().clone() for key, own in network.state_dict().items()})
        images, labels = next(iter(train.to(where).batches(32)))
        waits.clear()
        for _ in range(3):
            trainer.step(images, labels)
        assert not waits, "a step waits for nothing"
    for key, own in ended[0].items():
        assert torch.allclose(own, ended[1][key], atol=1e-6), key


def test_attacks(waits, digits):
    """The same images are fooled at the same step; at most 60 waits a batch."""
    some = digits[1].between(0, 60)
    donor = rs.load(REPOSITORY / "archive/lenet/Digits/in0-gn0-madry-eps0.3/model.pt")
    threat = replace(threat_on(some, None), epsilon=0.2)
    attacks, found, counts = suite("default", threat, 10), [], []
    for n, where in ((60, "cpu"), (40, NAME), (60, NAME)):
        network = moved(donor, where).network
        waits.clear()
        known = robustness(network, some.between(0, n).to(where), attacks, batch_size=40)
        found.append(known)
        counts.append(Counter(waits))
    cpu, _, there = found
    assert there.accuracies() == cpu.accuracies()
    assert 0.1 < cpu.accuracies()["worst case"] < 0.9
    for name in attacks.attacks:
        assert torch.equal(there.fooled(name), cpu.fooled(name))
        assert torch.equal(there.steps[name], cpu.steps[name])
    assert sum((counts[2] - counts[1]).values()) <= 60
    assert not counts[0]


STITCHES = {
    "standard": {"init": "random"},
    "fast": {"recipe": "fast"},
    "attacks and controls": {
        "no_robustness": False, "robust_images": 20, "tier": "quick", "controls": True,
        "random_fronts": 1, "noise_sigmas": (1.0,),
    },
    "under attack": {"adversary": {"kind": "madry", "perturb_steps": 2}},
    "soft targets": {"target_type": "soft_12", "temperature": 2, "cka_reg": -0.1, "l1": 0.01},
    "alignment": {"objective": "fula"},
    "a mask": {"mask": "hungarian", "init": "ones-zeros"},
    "two layers": {"map": "mlp", "init": "ps_inv"},
    "invariant images": {"train_on": "invariant"},
}  # fmt: skip


@pytest.mark.parametrize("name", STITCHES)
def test_stitches(name, waits, donors, digits):
    settings = {"epochs": 1, "batch_size": 32, "no_robustness": True, **STITCHES[name]}
    accuracies = []
    for where in ("cpu", NAME):
        pair = [moved(donor, where) for donor in donors]
        splits = [split.between(0, 96).to(where) for split in digits]
        result = rs.stitch(*pair, "relu2", "relu2", splits, **settings)
        assert result.network.transform.bias.device.type == where
        accuracies.append(numbers(result.measured))
    here, there = accuracies
    for network in ("front", "end", "untrained", "stitched", "direct_matching"):
        for key in ("accuracy", "loss", "cka_to_end", "debiased_cka_to_end", "l2_to_end"):
            assert there[network][key] == pytest.approx(here[network][key], rel=1e-4), network
        auroc = (side["ood"].get(network, {}).get("auroc") for side in accuracies)
        assert next(auroc) == pytest.approx(next(auroc), abs=1e-6)


def test_steps_of_a_map_wait_for_nothing(waits, donors, digits):
    pair, counts = [moved(donor, NAME) for donor in donors], []
    test = digits[1].between(0, 50).to(NAME)
    for n in (64, 64, 256):  # the first traces
        waits.clear()
        train = digits[0].between(0, n).to(NAME)
        how = {"epochs": 1, "batch_size": 32, "no_robustness": True, "no_pinv": True}
        rs.stitch(*pair, "relu2", "relu2", (train, test), **how)
        counts.append(Counter(waits))
    more = counts[2] - counts[1]
    del more[METER]
    assert not more


def test_maps(waits, donors, digits):
    how = {"epochs": 1, "batch_size": 32, "robust_images": 10, "tier": "quick", "controls": True}
    how |= {"front_layers": ["relu2", "relu3"], "end_layers": ["relu2", "fc1"]}
    tables = []
    for where in ("cpu", NAME):
        pair = [moved(donor, where) for donor in donors]
        splits = [split.between(0, 96).to(where) for split in digits]
        result = rs.stitch_map(*pair, splits, random_fronts=1, noise_sigmas=(), **how)
        keys = ("stitched.accuracy", "debiased_cka", "gaps.random_front")
        tables.append([result.table(key).to_numpy() for key in keys])
    for here, there in zip(*tables, strict=True):
        assert there == pytest.approx(here, abs=1e-6)


def test_comparisons(waits, donors, digits):
    layers = {"layers1": ["relu2", "fc1"], "layers2": ["relu2", "relu3"]}
    measures = [
        *("minibatch-cka", "debiased-cka", "cka", "procrustes", "svcca", "mutual-knn"),
        *("rsa-correlation-pearson", "distance-correlation", "soft-matching", "disagreement"),
    ]
    found = []
    for where in ("cpu", NAME):
        pair = [moved(donor, where).network for donor in donors]
        how = {"measures": measures, "null": 19, "interval": True, "batch_size": 50}
        found.append(rs.compare(*pair, digits[1].between(0, 100).to(where), **layers, **how))
    here, there = found
    for name, values in here.layerwise.items():
        assert torch.allclose(there.layerwise[name].cpu(), values, atol=1e-5, equal_nan=True), name
        for ends in zip(there.intervals[name], here.intervals[name], strict=True):
            assert torch.allclose(*(e.cpu() for e in ends), atol=1e-4, equal_nan=True), name
    assert there.outputs == pytest.approx(here.outputs)
