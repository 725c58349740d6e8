"""What is measured of donors is measured once, and is what it would be if it were measured anew."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robust_stitching import checkpoints
from robust_stitching.data.pictures import Square
from robust_stitching.data.streamed import StreamedSplit
from robust_stitching.plans import stitching
from robust_stitching.stitching import attack_scores
from robust_stitching.stitching.once import DonorScores, content_of
from robust_stitching.stitching.run import stitch

EASY = {"epochs": 1, "batch_size": 32, "eval_epsilon": 0.02, "robust_images": 20, "tier": "quick"}


@pytest.fixture
def pair(tiny10s, digits):
    """Two donors whose passes to the end are counted, and data."""
    calls = {"front": 0, "end": 0}

    def counted(role, path):
        checkpoint = checkpoints.load(path)
        network = checkpoint.network
        own = id(network.fc)

        def count(module, *rest):
            calls[role] += id(module) == own  # copies have the hook, too

        network.fc.register_forward_hook(count)
        return checkpoint

    donors = {role: counted(role, path) for role, path in zip(calls, tiny10s, strict=True)}
    train, test = digits[0].between(0, 64), digits[1].between(0, 60)
    return SimpleNamespace(**donors, train=train, test=test, calls=calls)


def stitched(pair, known=None, layer="bn3", test=None, **options):
    """The result, and how often each donor was asked for its answers meanwhile."""
    before = dict(pair.calls)
    how = stitching(layer, layer, **EASY | options)
    test = pair.test if test is None else test
    result = stitch(pair.front, pair.end, pair.train, test, how, donors=known)
    return result, {role: count - before[role] for role, count in pair.calls.items()}


def same(one, other):
    """To the last bit, networks aside."""
    assert one.measured == other.measured and one.notes == other.notes


@pytest.mark.parametrize("no_pinv", [False, True])
def test_clean_scores_take_one_pass(no_pinv, pair):
    _, asked = stitched(pair, no_robustness=True, no_pinv=no_pinv)
    assert asked == {"front": 1, "end": 1}  # 60 images are a batch


def test_another_cut_asks_the_donors_for_nothing_of_their_own(pair):
    known = DonorScores()
    _, first = stitched(pair, known)
    again, second = stitched(pair, known, "bn5", epochs=2)
    fresh, anew = stitched(pair, layer="bn5", epochs=2)
    assert first == anew and min(first.values()) > 40
    assert second == {"front": 1, "end": 1}  # of what was made against the stitched network
    same(again, fresh)
    _, clean = stitched(pair, known, "bn7", no_robustness=True)
    assert clean == {"front": 0, "end": 0}


def test_the_same_network_twice_is_measured_once(pair):
    pair.end = replace(pair.front, path=pair.end.path)
    _, both = stitched(pair, no_robustness=True)
    assert both == {"front": 1, "end": 0}


def test_what_is_read_again_is_the_same_network(pair, tiny10s, digits):
    known = DonorScores()
    result, _ = stitched(pair, known)
    front = checkpoints.load(tiny10s[0]).network
    front.fc._forward_hooks = pair.front.network.fc._forward_hooks
    pair.front, pair.test = replace(pair.front, network=front), digits[1].between(0, 60)
    again, asked = stitched(pair, known)
    assert asked == {"front": 0, "end": 1}
    same(again, result)


def weights(pair):
    with torch.no_grad():
        pair.front.network.fc.weight[0, 0] += 0.5


def statistics(pair):
    pair.front.network.bn1.running_mean[0] += 0.1


def attribute(pair):
    pair.front.network.bn1.eps = 0.5


def images(pair):
    pair.test.images[:] = pair.test.images.flip(-1)


def labels(pair):
    pair.test.labels[:] = pair.test.labels.flip(0)


@pytest.mark.parametrize("change", [weights, statistics, attribute, images, labels])
def test_what_is_changed_in_place_is_measured_anew(change, pair):
    pair.test = replace(pair.test, images=pair.test.images.clone(), labels=pair.test.labels.clone())
    known = DonorScores()
    stitched(pair, known)
    change(pair)
    again, asked = stitched(pair, known)
    fresh, _ = stitched(pair)
    assert asked["front"] > 40
    assert (asked["end"] > 40) is (change in (images, labels))
    same(again, fresh)


@pytest.mark.parametrize(
    "options", [{"seed": 1}, {"eval_epsilon": 0.03}, {"robust_images": 21}, {"tier": "gradient"}]
)
def test_other_attacks_are_measured_anew(options, pair):
    known = DonorScores()
    stitched(pair, known)
    again, asked = stitched(pair, known, **options)
    assert min(asked.values()) > 20
    same(again, stitched(pair, **options)[0])


def test_another_split_is_measured_anew(pair, digits):
    known = DonorScores()
    stitched(pair, known, no_robustness=True)
    other = digits[1].between(60, 120)
    again, asked = stitched(pair, known, test=other, no_robustness=True)
    assert asked == {"front": 1, "end": 1}
    same(again, stitched(pair, test=other, no_robustness=True)[0])


def test_another_number_of_threads_is_measured_anew(pair):
    known, before = DonorScores(), torch.get_num_threads()
    one = known.of(pair.front.network)
    try:
        torch.set_num_threads(before + 1)
        assert known.of(pair.front.network) is not one
    finally:
        torch.set_num_threads(before)
    assert known.of(pair.front.network) is one


def test_many_images_are_not_kept_but_attacked_again(pair, monkeypatch):
    monkeypatch.setattr(attack_scores, "MOST_KEPT", 0)
    known = DonorScores()
    result, first = stitched(pair, known)
    again, second = stitched(pair, known)
    same(again, result)
    assert 20 <= second["front"] < first["front"]


def test_files_count_by_their_sizes(tmp_path):
    paths = [tmp_path / "a" / f"{number}.png" for number in range(3)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1234")
    found = np.array([os.fsencode(path) for path in paths])
    split = StreamedSplit("a", found, torch.zeros(3).long(), ("x",), Square(32, None))
    before = content_of(split)
    assert content_of(replace(split, paths=found.copy())) == before
    assert content_of(replace(split, square=Square(16, None))) != before
    assert content_of(replace(split, paths=found[::-1].copy())) != before
    paths[1].write_bytes(b"12345")
    assert content_of(split) != before
