"""Copies of networks, and of the functions that they hold."""

import functools
import weakref
from collections import deque

import pytest
import torch
from torch import nn

import robust_stitching as rs
from robust_stitching.basics.copying import copy_of
from robust_stitching.basics.errors import UserError

KNOWN = nn.Identity()


class Holding(nn.Module):
    """Grey images of 8×8 pixels; `hold` says how it comes to its batch norm."""

    def __init__(self, hold):
        super().__init__()
        self.bn = nn.BatchNorm1d(64)
        self.fc = nn.Linear(64, 4)
        self.hold = hold(self)

    def normalised(self, x):
        return self.bn(x)

    def forward(self, x):
        return self.fc(self.hold(x.flatten(1)))


def map_one(function, x):
    return function(x)


def recursive(net):
    def times(x, n=1):
        return net.bn(x) if n == 0 else times(x, n - 1)

    return times


def by_a_weak_reference(net):
    known = weakref.ref(net)
    return lambda x: known().bn(x)


def by_a_list(net):
    kept = [net.bn]
    return lambda x: kept[0](x)


def by_another_function(net):
    return functools.wraps(net.normalised)(lambda x, inner=lambda x: net.bn(x): inner(x))


HOLDS = {
    "a closure over the network": lambda net: lambda x: net.bn(x),
    "a closure over the module": lambda net: (lambda bn: lambda x: bn(x))(net.bn),
    "a default": lambda net: lambda x, bn=net.bn: bn(x),
    "a keyword's default": lambda net: lambda x, *, bn=net.bn: bn(x),
    "a partial function": lambda net: functools.partial(lambda bn, x: bn(x), net.bn),
    "a partial closure": lambda net: functools.partial(lambda y, x: net.bn(x), 0),
    "a closure given to one": lambda net: functools.partial(map_one, lambda x: net.bn(x)),
    "a bound method": lambda net: net.normalised,
    "a cached one": lambda net: functools.lru_cache(net.normalised),
    "recursive": recursive,
    "a weak reference": by_a_weak_reference,
    "a list": by_a_list,
    "another function": by_another_function,
}


@pytest.mark.parametrize("how", HOLDS)
def test_functions_of_a_copy_work_on_the_copy(how):
    net = Holding(HOLDS[how])
    net.kept = {"inside": [net.hold], "a tuple": (net.hold, 1)}
    copied = copy_of(copy_of(net))
    for function in (copied.hold, copied.kept["inside"][0], copied.kept["a tuple"][0]):
        before = copied.bn.running_mean.clone()
        function(torch.rand(3, 64))
        assert not torch.equal(copied.bn.running_mean, before)
    assert net.bn.num_batches_tracked == 0 and torch.equal(net.bn.running_mean, torch.zeros(64))
    net.hold(torch.rand(3, 64))
    assert net.bn.num_batches_tracked == 1


def test_hooks_of_a_copy_work_on_the_copy():
    net = Holding(lambda net: nn.Identity())
    net.hold.register_forward_hook(lambda module, given, output: net.bn(output))
    made = rs.network(net, image_size=8)
    images = torch.rand(3, 1, 8, 8)
    answers = made.network(images)
    assert net.training and net.bn.num_batches_tracked == 0
    assert torch.equal(answers, net.eval()(images))


def test_functions_that_hold_nothing_of_the_network_stay_as_they_are():
    count, functional = [], nn.functional.max_pool2d  # a closure, too
    net = Holding(lambda net: count.append)
    net.pool, net.note = functional, lambda: count
    copied = copy_of(net)
    assert copied.pool is functional and copied.note is net.note


def test_two_functions_that_share_a_variable_share_it_in_the_copy():
    def pair(net):
        bn = net.bn

        def change(other):
            nonlocal bn
            bn = other

        net.change, net.known = change, lambda: (bn, net)
        return nn.Identity()

    net = Holding(pair)
    copied = copy_of(net)
    copied.change(3)
    assert copied.known() == (3, copied) and net.known() == (net.bn, net)


def test_a_part_that_is_known_by_a_global_name_is_refused(monkeypatch):
    net = Holding(lambda net: lambda x: next(KNOWN(x) for _ in range(1)))
    copy_of(net)  # as long as it is no part of the network
    net.kept, net.note = HOLDS, lambda: HOLDS
    copy_of(net)  # what is no module and no tensor does no harm
    monkeypatch.setitem(globals(), "KNOWN", net.bn)
    told = r"<lambda> \(line \d+ of .*test_copying\.py\), .* by the global name 'KNOWN'"
    with pytest.raises(UserError, match=told):
        rs.network(net)


class Slots:
    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function


class Itself(nn.Linear):
    def __deepcopy__(self, memo):
        return self


KEPT = {
    "deque": lambda net: deque([lambda x: net.bn(x)]),
    "set": lambda net: {lambda x: net.bn(x)},
    "frozenset": lambda net: frozenset({lambda x: net.bn(x)}),
    "Slots": lambda net: Slots(lambda x: net.bn(x)),
    "list": lambda net: [{"a": Slots(lambda x: net.bn(x))}],
    "WeakValueDictionary": lambda net: weakref.WeakValueDictionary(a=net),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_would_lead_to_the_original_is_refused(kind):
    net = Holding(lambda net: nn.Identity())
    net.hold.kept = KEPT[kind](net)
    told = (
        rf"Holding cannot be copied: 'kept' of its part 'hold', a Identity, \({kind}\) would lead"
    )
    with pytest.raises(UserError, match=told):
        copy_of(net)
    net.kept, net.hold.kept = net.hold.kept, None
    with pytest.raises(UserError, match=rf"'kept' of the network itself \({kind}\) would lead"):
        rs.network(net)
    net.kept = deque([len, nn.functional.relu, lambda x: HOLDS, torch.ones(3)])
    assert copy_of(net).kept[0] is len


def test_a_part_that_is_the_same_in_a_copy_is_refused():
    net = nn.Sequential(nn.Flatten(), Itself(64, 4))
    told = "Sequential cannot be copied: its part '1', a Itself, is the same in the copy; mend"
    with pytest.raises(UserError, match=told):
        rs.network(net, image_size=8)
    with pytest.raises(UserError, match="Itself cannot be copied: the network itself is the same"):
        copy_of(Itself(64, 4))


@pytest.mark.parametrize("keep", [lambda t: t, lambda t: {"a": [t]}, lambda t: (nn.Identity(), t)])
def test_what_a_pass_has_computed_is_copied_as_numbers(keep):
    net = Holding(lambda net: net.bn)
    computed = net(torch.rand(3, 1, 8, 8))
    net.kept = keep(computed)
    held = copy_of(net).kept
    copied = held if torch.is_tensor(held) else held[1] if len(held) == 2 else held["a"][0]
    assert torch.equal(copied, computed) and copied is not computed and not copied.requires_grad
    made = rs.network(net, image_size=8)
    made.network.kept = keep(made.network(torch.rand(3, 1, 8, 8)))
    assert [layer.name for layer in rs.layers(made)][-1] == "fc"
