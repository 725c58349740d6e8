"""Random numbers belong to an image: neither batches nor others that are attacked change them."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from conftest import REPOSITORY
from in_float64 import InFloat64
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat, draws_at
from robust_stitching.attacks.draws import BLOCK, draws_from
from robust_stitching.basics.seeds import generator_for
from robust_stitching.evaluation import suites
from robust_stitching.evaluation.robustness import robustness, suite

THREAT = Threat(0.1)


def test_numbers_are_drawn_for_the_whole_block_and_selected():
    places = torch.tensor([3, 249, 250, 777])
    draws = draws_at(places, 5, "name", 2)
    streams = {block: generator_for(5, "name", 2, block) for block in (0, 1, 3)}
    for kind in ("rand", "randn", "rand"):
        whole = {
            block: getattr(torch, kind)(BLOCK, 2, 3, generator=g) for block, g in streams.items()
        }
        expected = [whole[int(place) // BLOCK][int(place) % BLOCK] for place in places]
        assert torch.equal(getattr(draws, kind)(2, 3), torch.stack(expected))


@pytest.mark.parametrize("rows", [[0], [2, 3], [3, 1, 0]])
def test_what_is_selected_does_not_change(rows):
    places = torch.tensor([3, 249, 250, 777])
    whole, part = draws_at(places, 1), draws_at(places, 1).among(torch.tensor(rows))
    alone = draws_at(places[rows], 1)
    for _ in range(3):
        expected = whole.rand(4)[rows]
        assert torch.equal(part.rand(4), expected)
        assert torch.equal(alone.rand(4), expected)


def test_seeds_and_images_have_numbers_of_their_own():
    seeds = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    places = torch.tensor([0, 1, 250, 500])
    drawn = torch.cat([draws_at(places, *seed).rand(6) for seed in seeds])
    assert len({tuple(row.tolist()) for row in drawn}) == len(drawn)


def test_a_generator_draws_for_a_batch_as_a_whole():
    draws = draws_from(generator_for(4), 5)
    expected = torch.rand(5, 2, generator=generator_for(4))
    assert torch.equal(draws.rand(2), expected)
    assert draws_from(draws, 5) is draws


# In an evaluation


@pytest.fixture(scope="module")
def lenet():
    network = checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt").network
    return network.double()  # there the size of a batch, which differs, cannot turn a sign


@pytest.fixture(scope="module", autouse=True)
def short():
    """The expensive attacks with less to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "QUERIES", 12)
        patch.setattr(suites, "TARGETS", 3)
        yield


@pytest.fixture(scope="module")
def whole(lenet, digits):
    attacks = suite("default", THREAT, 10, steps=4, restarts=2)
    return robustness(lenet, InFloat64(digits[1]), attacks)


def same(one, other, rows=slice(None)):
    assert all(torch.equal(steps, other.steps[name][rows]) for name, steps in one.steps.items())
    torch.testing.assert_close(one.images, other.images[rows], atol=1e-9, rtol=0)


@pytest.mark.parametrize("batch_size", [60, 97, 360])
def test_the_size_of_batches_changes_nothing(batch_size, whole, lenet, digits):
    attacks = suite("default", THREAT, 10, steps=4, restarts=2)
    found = robustness(lenet, InFloat64(digits[1]), attacks, batch_size=batch_size)
    same(found, whole)
    assert all((steps >= 0).any() for name, steps in found.steps.items() if name != "Square")


@pytest.mark.parametrize("n", [70, 260])
def test_images_behind_change_nothing(n, whole, lenet, digits):
    attacks = suite("default", THREAT, 10, steps=4, restarts=2)
    same(robustness(lenet, InFloat64(digits[1].between(0, n)), attacks), whole, slice(0, n))


def test_who_else_is_right_changes_nothing(whole, lenet, digits):
    """Half of the labels made wrong: the others are attacked as before."""
    split = digits[1].between(0, 300)
    odd = torch.arange(300) % 2
    split = replace(split, labels=(split.labels + odd) % 10)
    attacks = suite("default", THREAT, 10, steps=4, restarts=2)
    found = robustness(lenet, InFloat64(split), attacks)
    for name, steps in found.steps.items():
        assert torch.equal(steps[::2], whole.steps[name][:300:2])


def test_every_attack_restart_and_image_starts_elsewhere(lenet, digits, monkeypatch):
    """What each run is shown first, as a change of each image: none is seen twice."""
    starts = []
    real = {kind: getattr(Threat, f"{kind}_start") for kind in ("uniform", "boundary")}

    def noted(kind):
        def start(threat, images, source):
            found = real[kind](threat, images, source)
            starts.append((found - images).flatten(1))
            return found

        return start

    for kind in real:
        monkeypatch.setattr(Threat, f"{kind}_start", noted(kind))
    split = digits[1].between(0, 300)
    grey = torch.full_like(split.images, 128)  # nothing is cut off at black and white
    answers = lenet(grey / 255.0 + torch.zeros(1).double()).argmax(dim=1)
    split = replace(split, images=grey, labels=answers)
    attacks = suite("default", Threat(1e-5), 10, steps=1, restarts=2)
    kept = {name: attack for name, attack in attacks.attacks.items() if name != "Square"}
    attacks = replace(attacks, attacks=kept)
    robustness(lenet, InFloat64(split), attacks, batch_size=100, keep_images=False)
    changes = torch.cat(starts).mul(1e5).round(decimals=4)
    counts = Counter(tuple(row.tolist()) for row in changes)
    assert len(changes) >= 2 * (3 + 3) * 300  # and those of the checks behind
    assert max(counts.values()) == 1
