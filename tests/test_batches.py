"""How images are put into batches: none that a network cannot take, and none lost or seen twice."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from robust_stitching import checkpoints, data, models
from robust_stitching.basics.errors import UserError
from robust_stitching.data.pictures import Square
from robust_stitching.data.split import equal_sizes, sizes_in_order, sizes_of_epoch
from robust_stitching.evaluation import evaluate
from robust_stitching.plans import Adversary, Optimisation, stitching
from robust_stitching.similarity import compare
from robust_stitching.stitching.run import stitch
from robust_stitching.training import Metrics, Trainer, standard
from robust_stitching.training.adversarial import Attacking

NUMBERS = [(n, b) for n in (1, 2, 3, 5, 9, 10, 13, 31) for b in (1, 2, 3, 4, 9, 10, 40)]


def numbered(n, size=6):
    """A split whose every image is told by its label."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, size, size)
    return data.Split("Numbered", images.contiguous(), torch.arange(n), tuple(map(str, range(n))))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Thirteen images in files, each of a grey of its own."""
    folder, paths = tmp_path_factory.mktemp("pictures"), []
    for i in range(13):
        paths.append(str(folder / f"{i:02d}.png").encode())
        Image.new("L", (32, 32), 10 * i).save(paths[-1])
    labels = torch.arange(13) % 2
    return data.StreamedSplit("pictures", np.array(paths), labels, ("a", "b"), Square(32))


# Sizes


@pytest.mark.parametrize("n, b", NUMBERS)
def test_sizes(n, b):
    plain, folded, equal = (f(n, b) for f in (sizes_in_order, sizes_of_epoch, equal_sizes))
    assert sum(plain) == sum(folded) == sum(equal) == n
    assert plain == [b] * (n // b) + [n % b] * (n % b > 0)
    if n % b == 1 and n > 1 and b > 1:
        assert folded == [b] * (n // b - 1) + [b + 1]
    else:
        assert folded == plain
    assert max(equal) - min(equal) <= 1
    assert min(equal) >= min(2, n)
    assert max(equal) <= max(b, 3)


@pytest.mark.parametrize("n, b", NUMBERS)
def test_an_epoch_in_memory(n, b):
    split = numbered(n)
    batches = [labels for _, labels in split.epoch(b, seed=1, epoch=2)]
    assert list(map(len, batches)) == sizes_of_epoch(n, b)
    assert len(batches) == split.batches_per_epoch(b)
    order = torch.cat(batches)
    assert sorted(order.tolist()) == list(range(n))
    ((_, whole),) = split.epoch(n, seed=1, epoch=2)
    assert torch.equal(order, whole)  # the same order whatever the batches


def seen(split, b, **which):
    batches = list(split.epoch(b, seed=3, epoch=1, **which))
    return [(images, labels) for images, labels in batches]


@pytest.mark.parametrize("b", [1, 2, 3, 4, 5, 6, 12, 13])
@pytest.mark.parametrize("where", ["memory", "stream", "workers"])
def test_an_epoch_is_entered_again(where, b, pictures, monkeypatch):
    split = numbered(13) if where == "memory" else pictures
    if where == "workers":
        monkeypatch.setattr("robust_stitching.data.streamed.WORTH_WORKERS", 1)
        split = replace(split, workers=2)
    whole = seen(split, b)
    assert [len(labels) for _, labels in whole] == sizes_of_epoch(13, b)
    for skip in range(len(whole) + 2):
        rest = seen(split, b, skip=skip)
        assert len(rest) == max(0, len(whole) - skip)
        for one, other in zip(whole[skip:], rest, strict=True):
            assert all(map(torch.equal, one, other))
        if where == "workers" and skip == 2:
            break


@pytest.mark.parametrize("where", ["memory", "stream"])
def test_batches_in_order_and_equal_ones(where, pictures):
    split = numbered(13) if where == "memory" else pictures
    for batches, sizes in (
        (split.batches(4), [4, 4, 4, 1]),
        (split.equal_batches(4), [4, 3, 3, 3]),
        (split.equal_batches(6), [5, 4, 4]),
        (split.equal_batches(100), [13]),
    ):
        found = list(batches)
        assert [len(labels) for _, labels in found] == sizes
        assert torch.equal(torch.cat([labels for _, labels in found]), split.labels)


def test_a_comparison_has_batches_as_asked():
    """Blocks of Gram matrices are counted in whole batches: nothing is folded there."""
    pair = [models.build("lenet", num_classes=10, in_channels=1, seed=s) for s in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (21, 1, 32, 32), dtype=torch.uint8, generator=generator)
    split = data.Split("Some", images, torch.arange(21) % 10, tuple("0123456789"))
    layers, which = ["relu1", "fc1"], ["cka", "debiased-cka"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robust_stitching.similarity.blocks.BLOCK_BYTES", 1)
        few = compare(*pair, split, layers, layers, which, batch_size=4)
    at_once = compare(*pair, split, layers, layers, which, batch_size=21)
    for name in which:
        assert few.n_images[name] == 21
        torch.testing.assert_close(few.layerwise[name], at_once.layerwise[name], atol=1e-6, rtol=0)


# Networks that need two images at a time


@pytest.mark.parametrize(
    "model", ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "rvit"]
)
def test_a_last_image_alone_is_trained_on_with_others(model, digits):
    network = models.build(model, num_classes=10, in_channels=1)
    part = digits[0].between(0, 9)
    trainer = Trainer(network, standard, part, Optimisation(2, 0.01, batch_size=4))
    trainer.run()
    assert (trainer.iteration, trainer.steps_per_epoch) == (4, 2)
    assert [record.iteration for record in trainer.history] == [2, 4]


@pytest.mark.parametrize("n, b", [(3, 1), (1, 4), (1, 1)])
def test_one_image_at_a_time_is_refused_before_anything_is_done(n, b, digits):
    network = models.build("torchvision:resnet18", num_classes=10, in_channels=1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    trainer = Trainer(network, standard, digits[0].between(0, n), Optimisation(2, 0.01, b))
    with pytest.raises(UserError, match="2 images at a time or more") as error:
        trainer.run()
    assert "\n" not in str(error.value)
    assert trainer.iteration == 0
    assert all(torch.equal(before[name], value) for name, value in network.named_parameters())


def test_one_image_at_a_time_is_fine_where_networks_can_take_it(digits):
    for model in ("lenet", "tiny10"):
        network = models.build(model, num_classes=10, in_channels=1)
        trainer = Trainer(network, standard, digits[0].between(0, 3), Optimisation(1, 0.01, 1))
        trainer.run()
        assert trainer.iteration == 3


def test_a_stitch_of_a_last_image_alone(digits, tmp_path):
    network = models.build("rvit", num_classes=10, in_channels=1)
    checkpoints.save(tmp_path / "model.pt", network, "digits", {})
    donor = checkpoints.load(tmp_path / "model.pt")
    train, test = (split.between(0, 9) for split in digits)
    layer = "normalize"
    config = stitching(layer, layer, epochs=1, batch_size=4, init="eye", no_robustness=True)
    assert stitch(donor, donor, train, test, config).trained.curve[-1].iteration == 2


@pytest.mark.parametrize(
    "kind, ratio, batch, expected",
    [
        ("trades", 0.01, 128, 2),
        ("trades", 0.3, 4, 2),
        ("trades", 0.5, 5, 2),
        ("trades", 1.0, 1, 1),
        ("trades", 0.001, 128, 0),
        ("trades", 0.5, 128, 64),
        ("madry", 0.01, 128, 1),
    ],
)
def test_how_many_images_are_attacked(kind, ratio, batch, expected):
    assert Adversary(kind, attack_ratio=ratio).attacked(batch) == expected


@pytest.mark.parametrize("kind", ["trades", "madry"])
def test_few_attacked_images_are_trained_on(kind, digits):
    network = models.build("torchvision:resnet18", num_classes=10, in_channels=1)
    adversary = Attacking(Adversary(kind, perturb_steps=1, attack_ratio=0.25, ramp=0))
    config = Optimisation(1, 0.01, batch_size=4)
    (epoch,) = Trainer(network, adversary, digits[0].between(0, 6), config).run()
    assert math.isfinite(epoch.train_loss)
    assert all(value.isfinite().all() for value in network.state_dict().values())


# No images, and other mistakes


@pytest.mark.parametrize("where", ["memory", "stream"])
@pytest.mark.parametrize(
    "use",
    [
        lambda split: split.sample(3),
        lambda split: split.batches(3),
        lambda split: split.equal_batches(3),
        lambda split: split.epoch(3, seed=0, epoch=0),
        lambda split: split.batches_per_epoch(3),
        lambda split: split.statistics(),
        lambda split: Trainer(nn.Linear(1, 1), standard, split, Optimisation(1, 0.1)),
        lambda split: evaluate(nn.Flatten(), split),
    ],
)
def test_no_images(where, use, pictures):
    split = numbered(5) if where == "memory" else pictures
    with pytest.raises(UserError, match=f"no images in this part of {split.name}"):
        use(split.between(0, 0))


@pytest.mark.parametrize("size", [0, -1])
def test_no_batches(size):
    split = numbered(5)
    for use in (split.batches, split.equal_batches, split.batches_per_epoch, split.sample):
        with pytest.raises(UserError, match=str(size)):
            use(size)
    with pytest.raises(UserError, match=str(size)):
        split.epoch(size, seed=0, epoch=0)


# States that fit, or do not


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 13), nn.BatchNorm1d(13), nn.Dropout())


def trainer(n=9, evaluate=None):
    return Trainer(small(), standard, numbered(n), Optimisation(3, 0.1, batch_size=4), evaluate)


class Stop(Exception):
    pass


@pytest.mark.parametrize("steps", [1, 2, 3])  # an epoch has two
def test_a_folded_epoch_is_resumed_bit_for_bit(steps):
    kept = {}

    def stop(running):
        if running.iteration == steps:
            kept.update(running.state_dict())
            kept["network"] = {k: v.clone() for k, v in kept["network"].items()}
            raise Stop

    with pytest.raises(Stop):
        trainer().run(stop)
    resumed, straight = trainer(), trainer()
    resumed.load_state_dict(kept)
    resumed.run()
    straight.run()
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])


@pytest.mark.parametrize("version", ["now", "before"])
def test_a_state_of_other_batches_is_refused(version):
    """As where the data have grown, or a last image alone was a batch of its own."""
    begun = trainer(13)
    begun.run()
    state = begun.state_dict()
    if version == "before":
        del state["steps_per_epoch"]
    with pytest.raises(UserError, match="begun with 3 batches an epoch, but now there are 2"):
        trainer(9).load_state_dict(state)
    trainer(13).load_state_dict(state)


@pytest.mark.parametrize("at", ["step", "end"])
def test_what_was_learned_is_kept_where_images_become_unreadable(at, monkeypatch):
    """Between two steps, or when the test images are looked at after an epoch."""
    looks = []

    def look(network):
        looks.append(1)
        if at == "end" and len(looks) == 2:
            raise data.Unreadable("gone")
        return Metrics(0.0, 1.0)

    def epoch(self, *args, **kwargs):
        for i, batch in enumerate(whole(self, *args, **kwargs)):
            if at == "step" and kwargs["epoch"] == 1 and i == 1:
                raise data.Unreadable("gone")
            yield batch

    whole, kept = data.Split.epoch, {}

    def keep(running):
        kept.update(running.state_dict())
        kept["network"] = {k: v.clone() for k, v in kept["network"].items()}

    with monkeypatch.context() as patch:
        patch.setattr(data.Split, "epoch", epoch)
        with pytest.raises(data.Unreadable):
            trainer(evaluate=look).run(before_failing=keep)
    assert kept["iteration"] == (3 if at == "step" else 4)
    resumed, straight = (trainer(evaluate=lambda network: Metrics(0.0, 1.0)) for _ in range(2))
    resumed.load_state_dict(kept)
    resumed.run()
    straight.run()
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])
    assert [r.train_loss for r in resumed.history] == [r.train_loss for r in straight.history]
