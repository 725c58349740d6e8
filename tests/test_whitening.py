"""Training in coordinates in which the inputs of a map are white, against formulas in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Adversary, Optimisation, stitching
from robust_stitching.similarity import Moments
from robust_stitching.stitching import matching
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.keeping import State
from robust_stitching.stitching.whitening import whitening
from robust_stitching.training import Trainer, objective_of
from robust_stitching.training.whitened import Whitened

RATE, DECAY = 0.03, 0.2


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def correlated(n: int = 400, channels: int = 6) -> Tensor:
    """Channels of sizes 1 to 30, mixed, far from zero on average."""
    sizes = torch.linspace(1, 30, channels).double()
    return (randn(n, channels) * sizes) @ randn(channels, channels, seed=1) + 5


def moments_of(x: Tensor) -> Moments:
    moments = Moments(x.shape[1], 1)
    moments.update(x, x[:, :1])
    return moments


# The coordinates


def test_whitened_inputs_have_the_identity_as_covariance():
    x = correlated()
    matrix = whitening(moments_of(x), floor=1e-12)
    white = (x @ matrix[:-1, :-1].T + matrix[:-1, -1]).numpy()
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-8)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-10)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    np.testing.assert_allclose(matrix[:-1, :-1], root, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(matrix[-1], [0, 0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("constant", [0.0, 1000.0])
def test_dead_channels_stay_dead_and_leave_the_others_alone(constant):
    x = correlated()
    dead = torch.full((len(x), 1), constant).double()
    whole = whitening(moments_of(torch.cat([x[:, :2], dead, x[:, 2:]], dim=1)), floor=1e-12)
    live = [0, 1, 3, 4, 5, 6]
    expected = whitening(moments_of(x), floor=1e-12)[:-1, :-1]
    torch.testing.assert_close(whole[live][:, live], expected, rtol=1e-6, atol=1e-9)
    assert max(whole[2, live].abs().max(), whole[live, 2].abs().max()) < 1e-8
    assert whole.isfinite().all()


def test_the_floor_bounds_the_scale():
    x = randn(500, 3) * torch.tensor([10.0, 1.0, 0.01]).double()
    matrix = whitening(moments_of(x), floor=1e-3)
    variances = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))
    scales = np.linalg.eigvalsh(matrix[:-1, :-1].numpy())
    expected = np.sort(np.maximum(variances, 1e-3 * variances.max()) ** -0.5)
    np.testing.assert_allclose(scales, expected, rtol=1e-6)


def test_where_all_channels_are_constant_nothing_is_scaled():
    matrix = whitening(moments_of(torch.full((9, 3), 0.5).double()))
    torch.testing.assert_close(matrix[:-1, :-1], torch.eye(3).double())


# The steps


def loss_of(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A loss with a term that is of W."""
    return (torch.tanh(x @ weight.T + bias) - y).square().mean() + 0.1 * weight.abs().mean()


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Inputs, goals, W, b and M."""
    x = correlated()
    return (
        x,
        randn(len(x), 4, seed=2),
        randn(4, 6, seed=3) / 30,
        randn(4, seed=4),
        whitening(moments_of(x)),
    )


def trained(optimizer: str, decay: float, steps: int) -> tuple[Tensor, Tensor]:
    x, y, *start, matrix = problem()
    weight, bias = map(nn.Parameter, start)
    config = Optimisation(1, RATE, weight_decay=decay, optimizer=optimizer)
    whitened = Whitened(weight, bias, matrix, config)
    for _ in range(steps):
        whitened.zero_grad()
        loss_of(weight, bias, x, y).backward()
        whitened.step()
    return weight.detach(), bias.detach()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("decay", [0, DECAY])
def test_it_is_the_training_of_v_and_c(optimizer, decay):
    """With y = V P (x − m) + c written out, and half the weight decay times ‖W‖² + ‖b‖² as a part
    of the loss."""
    x, y, weight, bias, matrix = problem()
    root = np.linalg.inv(np.linalg.inv(matrix[:-1, :-1].numpy()))  # P, through its inverse
    root, mean = torch.from_numpy(root), x.mean(dim=0)
    v = nn.Parameter(weight @ torch.linalg.inv(root))
    c = nn.Parameter(bias + weight @ mean)
    torch.testing.assert_close(v @ root, weight)
    usual = {
        "adam": lambda: torch.optim.Adam([v, c], lr=RATE),
        "sgd": lambda: torch.optim.SGD([v, c], lr=RATE, momentum=0.9, nesterov=True),
    }[optimizer]()
    for _ in range(7):
        usual.zero_grad()
        w = v @ root
        b = c - w @ mean
        squares = w.square().sum() + b.square().sum()
        (loss_of(w, b, x, y) + decay / 2 * squares).backward()
        usual.step()
    expected = v @ root
    found = trained(optimizer, decay, steps=7)
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found[1], (c - expected @ mean).detach(), rtol=1e-7, atol=1e-10)
    assert (found[0] - weight).abs().max() > 1e-4


def test_a_gradient_step_is_preconditioned_by_the_inverse_covariance():
    """ΔW = −lr · dL/dW · P², with the mean of the inputs taken off; 1.9 from Nesterov's first
    step with momentum 0.9."""
    x, y, weight, bias, matrix = problem()
    w, b = (value.clone().requires_grad_() for value in (weight, bias))
    loss_of(w, b, x, y).backward()
    root, mean = matrix[:-1, :-1], x.mean(dim=0)
    centred = w.grad - torch.outer(b.grad, mean)  # dL/dW of the map of x − m
    found, _ = trained("sgd", 0, steps=1)
    torch.testing.assert_close(found - weight, -1.9 * RATE * centred @ root @ root)


# Whole trainings


@pytest.fixture(scope="module")
def splits():
    train, test = data.load("digits")
    return train.between(0, 300), test.between(0, 100)


def net(name: str, seed: int) -> nn.Module:
    return models.build(name, num_classes=10, in_channels=1, seed=seed).eval()


class Tokens(nn.Module):
    """A network with a layer of tokens (N, T, C)."""

    architecture = {"model": "tokens"}  # noqa: RUF012
    input_shape = (1, 32, 32)

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.patch, self.mix = nn.Conv2d(1, 8, 8, 8), nn.Linear(8, 8)
        self.act, self.fc = nn.ReLU(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc(self.act(self.mix(x)).mean(dim=1))


def test_a_stitch_is_that_of_a_training_of_v(splits):
    """The map of a whole run in float32, from least squares, is that of V and c in float64 but for
    rounding."""
    train, test = splits
    front, end = net("lenet", 1), net("lenet", 2)
    plan = stitching("relu2", "relu2", recipe="fast", epochs=1, batch_size=64, optimizer="sgd")
    found = find_map((front, "relu2"), (end, "relu2"), train, test, plan)
    moments = matching.moments_of(front, "relu2", end, "relu2", train)
    weight, bias = (value.double() for value in matching.direct(moments))
    matrix = whitening(moments)
    root, mean = matrix[:-1, :-1], moments.mean_x
    v, c = nn.Parameter(weight @ torch.linalg.inv(root)), nn.Parameter(bias + weight @ mean)
    network = StitchedNetwork(front, "relu2", end, "relu2").double().train()
    usual = torch.optim.SGD([v, c], lr=1e-2, momentum=0.9, nesterov=True)
    batches = [(x.double(), labels) for x, labels in train.epoch(64, seed=0, epoch=0)]
    for k, (x, labels) in enumerate(batches):
        usual.param_groups[0]["lr"] = 1e-2 * (1 + np.cos(np.pi * k / len(batches))) / 2
        usual.zero_grad()
        w = v @ root
        b = c - w @ mean
        values = {"transform.weight": w, "transform.bias": b}
        loss = nn.functional.cross_entropy(torch.func.functional_call(network, values, x), labels)
        (loss + 1e-4 / 2 * (w.square().sum() + b.square().sum())).backward()
        usual.step()
    w = v @ root
    assert torch.equal(found.maps[0].weight, weight.float())
    torch.testing.assert_close(found.maps[-1].weight.double(), w.detach(), rtol=1e-3, atol=1e-3)
    bias = (c - w @ mean).detach()
    torch.testing.assert_close(found.maps[-1].bias.double(), bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("decay", [0.0, 1e-3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init": "random", "optimizer": "sgd", "l1": 0.1},
        {"target_type": "soft_2", "temperature": 2.0, "cka_reg": -0.5},
        {"adversary": Adversary("madry", perturb_steps=2)},
        {"adversary": Adversary("trades", perturb_steps=2)},
    ],
    ids=["plain", "sgd and l1", "soft targets and a term", "madry", "trades"],
)
def test_an_interrupted_training_ends_where_a_whole_one_ends(options, decay, splits, tmp_path):
    from robust_stitching.stitching.targets import goal_of

    class Stopping(State):
        """Stops where the state was kept for the fourth time."""

        def after_step(self, trainer, maps):
            if trainer.iteration == 4:
                self.file.keep(lambda: _state(trainer, maps), now=True)
                raise KeyboardInterrupt

    def _state(trainer, maps):
        return {"trainer": trainer.state_dict(), "maps": [*map(vars, maps)]}

    plan = stitching(
        "bn2", "bn3", recipe="fast", batch_size=100, weight_decay=decay, save_frequency=1, **options
    )
    train, test = splits
    front, end = net("tiny10", 1), net("tiny10", 2)
    given = ((front, "bn2"), (end, "bn3"), train, test, plan, goal_of(plan.objective, front, end))
    whole = find_map(*given)
    with pytest.raises(KeyboardInterrupt):
        find_map(*given, state=Stopping(tmp_path / "state.pt"))
    resumed = find_map(*given, state=State(tmp_path / "state.pt"))
    assert [m.iteration for m in resumed.maps] == [0, 2, 4, 6]
    for one, other in zip(whole.maps, resumed.maps, strict=True):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
    assert not torch.equal(whole.maps[0].weight, whole.maps[-1].weight)


def test_what_is_kept_is_of_plain_values(splits, tmp_path):
    train, _ = splits
    network = StitchedNetwork(net("lenet", 1), "relu2", net("lenet", 2), "relu2")
    transform, config = network.transform, Optimisation(1, 1e-2, optimizer="adam")
    before = [*network.state_dict()]
    whitened = Whitened(transform.weight, transform.bias, torch.eye(17), config)
    trainer = Trainer(network, objective_of(None, network, 3), train, config, optimizer=whitened)
    trainer.run()
    checkpoints.write(tmp_path / "state.pt", trainer.state_dict())
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(kept["optimizer"]["matrix"], torch.eye(17))
    assert [*kept["network"]] == [*network.state_dict()] == before


def test_tokens_are_stitched(splits):
    train, test = splits
    front, end = Tokens(1).eval(), Tokens(2).eval()
    plan = stitching("mix", "mix", recipe="fast", batch_size=100)
    found = find_map((front, "mix"), (end, "mix"), train, test, plan)
    before, after = (SimpleNamespace(**vars(found.maps[i])) for i in (0, -1))
    assert torch.equal(before.weight, found.direct.weight)
    assert after.weight.isfinite().all() and not torch.equal(before.weight, after.weight)
    assert found.curve[-1].train_loss < found.curve[0].train_loss


def test_channels_last_gives_the_same(splits, tiny10s):
    """But for the ReLUs of equal pixels, which rounding turns together: gradients differ by 1%
    between the two forms, whitened or not."""
    train, test = splits
    options = {"recipe": "fast", "batch_size": 100, "epochs": 1, "optimizer": "sgd"}
    plan, maps = stitching("bn3", "bn3", **options), []
    for form in (torch.contiguous_format, torch.channels_last):
        front, end = (checkpoints.load(path).network.to(memory_format=form) for path in tiny10s)
        maps.append(find_map((front, "bn3"), (end, "bn3"), train, test, plan).maps)
    for one, other in zip(*maps, strict=True):
        moved = (one.weight - maps[0][0].weight).norm()
        assert (one.weight - other.weight).norm() <= 0.05 * moved + 1e-5


@pytest.mark.parametrize("options", [{"mask": "semi-match"}, {"low_rank": 3}, {"flatten": True}])
def test_only_full_maps_between_channels_can_be_white(options, splits):
    front, end = net("lenet", 1), net("lenet", 2)
    given = ((front, "relu2"), (end, "relu2"), *splits)
    plan = stitching("relu2", "relu2", whiten=True, init="zeros", **options)
    with pytest.raises(UserError, match="whiten=True is for full matrices between channels"):
        find_map(*given, plan)
    if "flatten" not in options:
        plan = stitching("relu2", "relu2", recipe="fast", epochs=1, **options)
        assert not torch.equal(
            *(m.weight for m in (find_map(*given, plan).maps[i] for i in (0, -1)))
        )
