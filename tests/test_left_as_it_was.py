"""Library calls leave the networks that they are given as they were: modes, gradients, numbers."""

from pathlib import Path

import pytest
import torch

from robust_stitching import models
from robust_stitching.attacks import Threat, apgd, fgsm, pgd
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.evaluation import evaluate, predict
from robust_stitching.evaluation.pair import look_at
from robust_stitching.evaluation.robustness import robustness, suite
from robust_stitching.graphs import graph
from robust_stitching.graphs.folding import Folded
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Adversary, Measurement, stitching
from robust_stitching.similarity import compare
from robust_stitching.stitching.controls import with_random_weights
from robust_stitching.stitching.matching import moments_of
from robust_stitching.stitching.measure import measure_on
from robust_stitching.stitching.run import stitch

MODELS = {"tiny10": "bn3", "resnet_w1": "layer2.0.add"}
MEASURES = ["cka", "debiased-cka", "minibatch-cka", "procrustes", "mutual-knn", "jensen-shannon"]
LINF, STEPS = Threat(0.1), {"steps": 2, "generator": torch.Generator()}


def strange(model, seed):
    """A network with every second module in training mode, every third weight frozen, and
    statistics that a forward in training mode would move."""
    network = models.build(model, num_classes=10, in_channels=1, seed=seed)
    for i, module in enumerate(network.modules()):
        module.training = i % 2 == 0
    for i, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(i % 3 > 0)
    return network


def seen(network):
    """All that a call could leave behind on a network."""
    return (
        {path: module.training for path, module in network.named_modules()},
        {path: (p.requires_grad, p.grad) for path, p in network.named_parameters()},
        {name: value.clone() for name, value in network.state_dict().items()},
        {path: len(m._forward_hooks) for path, m in network.named_modules()},
    )


def same(one, other):
    numbers = all(torch.equal(value, other[2][name]) for name, value in one[2].items())
    return one[:2] == other[:2] and numbers and one[3] == other[3]


def checkpoint(network):
    name = network.architecture.get("model", "stitched")
    return Checkpoint(network, name, "digits", 10, Path("model.pt"))


CALLS = {
    "evaluate": lambda a, b, split, _: evaluate(a, split),
    "predict": lambda a, b, split, _: predict(b, split),
    "look at": lambda a, b, split, _: look_at((checkpoint(a), checkpoint(b)), split),
    "graph": lambda a, b, split, layer: graph.Graph(a).layers,
    "layout": lambda a, b, split, layer: graph.layout_of(a, layer),
    "features": lambda a, b, split, layer: graph.features(a, [layer, "output"]),
    "join": lambda a, b, split, layer: graph.join(a, layer, b, layer, torch.nn.Identity()),
    "fold": lambda a, b, split, layer: Folded(a).refresh(),
    "stitched": lambda a, b, split, layer: StitchedNetwork(a, layer, b, layer).train().eval(),
    "answers": lambda a, b, split, _: predict(models.answering(a, [*range(9, -1, -1)]), split),
    "moments": lambda a, b, split, layer: moments_of(a, layer, b, layer, split),
    "twin": lambda a, b, split, layer: with_random_weights(a, split, 0, 0),
    "compare": lambda a, b, split, layer: compare(a, b, split, [layer], [layer], MEASURES, k=3),
    "robustness": lambda a, b, split, _: robustness(a, split, suite("default", LINF, 10, steps=3)),
    "measure": lambda a, b, split, layer: measure_on(
        split,
        {"front": (a, layer), "end": (b, layer), "stitched": (b, layer)},
        plan=Measurement(robust_images=8, eval_epsilon=0.1),
        seed=0,
    ),
    "fgsm": lambda a, b, split, _: fgsm(a, *next(split.batches(8)), LINF),
    "pgd": lambda a, b, split, _: pgd(a, *next(split.batches(8)), LINF, **STEPS, step_size=0.05),
    "apgd": lambda a, b, split, _: apgd(a, *next(split.batches(8)), LINF, **STEPS),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_leaves_both_networks_as_they_were(call, model, digits):
    networks = [strange(model, seed) for seed in (0, 1)]
    before = [seen(network) for network in networks]
    CALLS[call](*networks, digits[1].between(0, 16), MODELS[model])
    for network, then in zip(networks, before, strict=True):
        assert same(then, seen(network))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_type": "soft_1"},
        {"target_type": "soft_12", "temperature": 2.0},
        {"target_type": "soft_1_plus_2", "no_bn": True},
        {"init": "ps_inv", "controls": True},
        {"cka_reg": -1.0, "l1": 0.1, "init": "procrustes"},
        {"mask": "hungarian", "no_robustness": False, "robust_images": 8, "eval_epsilon": 0.1},
        {"adversary": Adversary("madry", perturb_steps=1), "target_type": "soft_2"},
        {"adversary": Adversary("trades", perturb_steps=1), "no_bn": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("stitched_front", [False, True], ids=["", "of a stitched front"])
def test_a_stitch_leaves_its_donors_as_they_were(options, stitched_front, digits):
    front, end = strange("tiny10", 0), strange("tiny10", 1)
    if stitched_front:
        if options.get("controls"):
            pytest.skip("a stitched front has no random twin")
        front = StitchedNetwork(front, "bn3", strange("tiny10", 2), "bn3").train()
    before = [seen(network) for network in (front, end)]
    config = stitching(
        "transform" if stitched_front else "bn3",
        "bn3",
        **{"epochs": 1, "batch_size": 16, "no_robustness": True, **options},
    )
    train, test = digits[0].between(0, 32), digits[1].between(0, 24)
    result = stitch(checkpoint(front), checkpoint(end), train, test, config, elsewhere=test)
    for network, then in zip((front, end), before, strict=True):
        assert same(then, seen(network))
    assert result.front.network is front and result.end.network is end


def test_what_is_left_behind_would_be_seen():
    network = strange("tiny10", 0)
    for spoil in (
        lambda: network.bn3.train(not network.bn3.training),
        lambda: network.fc.bias.requires_grad_(not network.fc.bias.requires_grad),
        lambda: network.bn3.running_mean.add_(1e-3),
        lambda: network.fc.register_forward_hook(print),
    ):
        before = seen(network)
        spoil()
        assert not same(before, seen(network))
