"""Bars while attacks run: they begin soon, move within a batch, and end at the end."""

import pytest
import torch
from torch import nn

from conftest import REPOSITORY
from robust_stitching import checkpoints
from robust_stitching.attacks import Threat
from robust_stitching.evaluation.pace import Pace
from robust_stitching.evaluation.robustness import robustness, suite
from robust_stitching.stitching.attack_scores import measure_attacks
from sure_networks import Linear, rows

THREAT = Threat(0.1)


class Bar:
    """A bar as tqdm has it, that notes what it shows."""

    disable, delay, start_t = False, 0, 0.0

    def __init__(self, total, what):
        self.total, self.what, self.n, self.initial = total, what, 0, 0
        self.moves, self.told, self.closed = [], [], False

    def update(self, n):
        assert n > 0 and n == int(n)
        self.n += n
        self.moves.append(self.n)

    def set_postfix_str(self, text):
        self.told.append(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    from robust_stitching.evaluation import pace

    monkeypatch.setattr(pace, "PULSE", 0)
    opened = []

    def progress(total, what, unit=" images"):
        opened.append(Bar(total, what))
        return opened[-1]

    progress.opened = opened
    return progress


@pytest.fixture(scope="module")
def lenet():
    return checkpoints.load(REPOSITORY / "archive/lenet/Digits/in0-gn0/model.pt").network


@pytest.mark.parametrize("tier", ["quick", "default"])
def test_an_evaluation_moves_within_a_batch(tier, lenet, digits, bars):
    robustness(lenet, digits[1].sample(60), suite(tier, THREAT, 10), progress=bars, batch_size=40)
    attacking, checking = bars.opened
    assert (attacking.what, attacking.total) == ("attacking", 60)
    assert checking.what == "looking for masked gradients"
    for bar in bars.opened:
        assert bar.n == bar.total and bar.closed
        assert bar.moves == sorted(set(bar.moves))
    within = {move for move in attacking.moves if move < 40}
    assert len(within) > 10
    names = ["FGSM", "PGD-20"] if tier == "quick" else ["APGD-CE", "APGD-T", "Square"]
    assert set(names) <= set(attacking.told)


def test_an_evaluation_goes_on_where_it_was(lenet, digits, bars):
    few, attacks, parts = digits[1].sample(40), suite("quick", THREAT, 10), []
    known = robustness(lenet, few, attacks, batch_size=20, after_batch=parts.append)
    known.done = 20
    robustness(lenet, few, attacks, batch_size=20, known=known, progress=bars)
    bar = bars.opened[0]
    assert bar.initial == 20 and bar.moves[0] > 20 and bar.n == 40


def test_every_piece_of_a_report_has_a_bar(lenets, digits, bars):
    networks = {
        name: checkpoints.load(path).network
        for name, path in zip(("front", "end"), lenets, strict=True)
    }
    measure_attacks(networks, digits[1].sample(40), THREAT, seed=0, progress=bars, tier="quick")
    told = [bar.what for bar in bars.opened if "masked" not in bar.what]
    assert told == ["attacking front", "attacking end", "transfer from front", "transfer from end"]
    assert all(bar.n == bar.total and bar.closed for bar in bars.opened)
    transfers = [bar for bar in bars.opened if "transfer" in bar.what]
    assert all(len(bar.moves) > 10 for bar in transfers)


def test_where_nobody_knows_how_long_it_takes_passes_are_counted(bars):
    bar = bars(10, "x")
    network, pace = nn.Linear(2, 2), Pace(bar, 0)
    with pace.watching(network):
        pace.batch(10)
        pace.part("AutoAttack", 0)
        for _ in range(3):
            network(torch.zeros(1, 2))
    network(torch.zeros(1, 2))
    assert bar.told[-1] == "AutoAttack 3 passes" and bar.moves == []
    pace.batch(0)
    assert bar.n == 10


def test_nothing_is_shown_too_soon_or_to_nobody(bars):
    pace = Pace(bars(10, "x"), 0)
    pace.bar.start_t, pace.bar.delay = 2**60, 2
    pace.part("PGD", 3)
    assert pace.bar.told == []
    pace.bar.start_t, pace.bar.disable = 0, True
    pace.part("PGD", 3)
    assert pace.bar.told == []


def test_more_passes_than_thought_do_not_move_beyond_the_batch(bars):
    bar, network = bars(10, "x"), Linear()
    pace = Pace(bar, 2)
    with pace.watching(network):
        pace.batch(5)
        pace.part("one", 1)
        for _ in range(9):
            network(next(rows().batches(2))[0])
        assert bar.n == 2
        pace.part("two", 1)
        network(next(rows().batches(2))[0])
    assert bar.n == 5
