"""A graph is made once for all networks that are alike, and never for one that has changed."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching import models
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs import graph
from robust_stitching.graphs.folding import Folded, view_of
from robust_stitching.graphs.graph import Graph, features, graph_of, join, layout_of
from robust_stitching.graphs.stitched import StitchedNetwork


class Leaf(nn.Module):
    """Not looked into, and made of all that a module may hold."""

    def __init__(self):
        super().__init__()
        self.size, self.pool, self.parts = 2, F.avg_pool2d, [{"a": {1}}, (1, 2)]

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x, self.size)


class Shifted(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Net(nn.Module):
    """A network that reads what tracing does not see: attributes, a buffer, a global."""

    architecture = {"model": "net"}  # noqa: RUF012
    input_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.leaf = nn.Conv2d(3, 6, 3), nn.ReLU(), Leaf()
        self.fc = nn.Linear(6, 10)
        self.register_buffer("level", torch.tensor(0.5))
        self.twice, self.scale = False, 1.5

    def forward(self, x: Tensor) -> Tensor:
        x = self.leaf(self.act(self.conv(x))) * self.scale + (self.level * 2 + SHIFT)
        x = torch.relu(x) if self.twice else x
        return self.fc(x.mean((2, 3)) - float(self.level))


SHIFT = 0.25


@pytest.fixture
def made(monkeypatch):
    """The networks of which a graph is made, when none is remembered at first."""
    found, begin = [], Graph.__init__
    monkeypatch.setattr(graph, "_graphs", weakref.WeakValueDictionary())
    monkeypatch.setattr(graph, "_last", weakref.WeakKeyDictionary())

    def counted(self, *args):
        found.append(args[0])
        begin(self, *args)

    monkeypatch.setattr(Graph, "__init__", counted)
    return found


def images(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_one_for_a_network_its_copies_and_those_of_other_weights(made):
    net = Net().train()
    first = graph_of(net)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for values in (*net.parameters(), *twin.parameters()):
            values.uniform_()
    net.conv.weight.data = net.conv.weight.data.clone()
    net.eval()
    for other in (net, twin, pickle.loads(pickle.dumps(net)), Net()):
        assert graph_of(other) is first
    assert made == [net]


def test_one_for_all_that_is_made_of_a_stitched_network(made):
    front, end = (models.build("tiny10", num_classes=10, in_channels=1, seed=s) for s in (0, 1))
    stitched = StitchedNetwork(front, "bn3", end, "bn4")
    for network in (stitched, copy.deepcopy(stitched).eval(), copy.deepcopy(stitched).train()):
        features(network, ["transform", "output"])
        assert isinstance(view_of(network), Folded)
        layout_of(network, "transform")
    view_of(end)
    assert len(made) == 2


CHANGES = {
    "a module": lambda net: setattr(net, "act", nn.Sigmoid()),
    "a method": lambda net: setattr(net, "act", Shifted()),
    "a module's class": lambda net: setattr(net.act, "__class__", nn.SiLU),
    "a function": lambda net: setattr(net.leaf, "pool", F.max_pool2d),
    "a size": lambda net: setattr(net.leaf, "size", 3),
    "a list": lambda net: net.leaf.parts.append(1),
    "a value": lambda net: net.leaf.parts[0].update(a={True}),
    "channels": lambda net: (
        setattr(net, "conv", nn.Conv2d(3, 9, 3)),
        setattr(net, "fc", nn.Linear(9, 10)),
    ),
    "a parameter": lambda net: setattr(net.fc, "bias", None),
    "in place": lambda net: setattr(net.act, "inplace", True),
    "padding": lambda net: setattr(net.conv, "padding", (1, 1)),
    "memory format": lambda net: net.to(memory_format=torch.channels_last),
    "images": lambda net: setattr(net, "input_shape", (3, 12, 12)),
    "a branch": lambda net: setattr(net, "twice", True),
    "a number": lambda net: setattr(net, "scale", 2.5),
    "a whole number": lambda net: setattr(net, "scale", 1),
    "a buffer": lambda net: net.level.fill_(0.125),
    "a buffer behind torch's back": lambda net: net.level.data.fill_(0.125),
    "another name": lambda net: setattr(net, "add", nn.Identity()),
    "a hook": lambda net: net.act.register_forward_hook(lambda module, given, out: out + 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_network_has_another_graph(change):
    """The same one as if there had been none before."""
    torch.manual_seed(0)
    net = Net().eval()
    before = graph_of(net)
    change(net)
    now, fresh = graph_of(net), Graph(net)
    assert now is not before
    assert now.layers == fresh.layers and now.refused == fresh.refused
    assert [str(node) for node in now.graph.nodes] == [str(node) for node in fresh.graph.nodes]
    x = torch.rand(3, *net.input_shape).to(net.fc.weight)
    assert torch.equal(features(net, ["output"])(x)[0], net(x.clone()))


def test_a_global_that_forward_reads_is_seen(monkeypatch):
    net = Net().eval()
    features(net, ["output"])
    monkeypatch.setattr(f"{__name__}.SHIFT", 3.0)
    assert torch.equal(features(net, ["output"])(images())[0], net(images()))


def test_networks_that_share_a_graph_have_their_own_constants():
    """Tensors that tracing makes of weights belong to the network, not to the graph."""
    first, second = Net().eval(), Net().eval()
    second.load_state_dict(first.state_dict())
    piece = features(first, ["add"])
    for other in (second, copy.deepcopy(first)):
        other.level.fill_(0.5)
        assert graph_of(other) is graph_of(first)
        with torch.no_grad():
            other.conv.weight.mul_(2)
        assert torch.equal(features(other, ["output"])(images())[0], other(images()))
    assert torch.equal(piece(images())[0], features(first, ["add"])(images())[0])


class Picking(nn.Module):
    """Puts the pixels in an order that only the values of a buffer tell."""

    input_shape = (3, 8, 8)

    def __init__(self, order: Tensor):
        super().__init__()
        self.register_buffer("order", order)
        self.fc = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(2)[:, :, self.order].unflatten(2, (8, 8)).flatten(1))


class Halved(Net):
    """Traced as `Net`, and another network: tracing does not see a dtype that is the usual one."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


class Unhalved(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


def test_what_a_trace_does_not_see_is_looked_for_in_all_that_are_alike(monkeypatch):
    proven = []
    monkeypatch.setattr(graph, "prove", lambda net, *_: proven.append(net))
    first, second, other = Unhalved(), Unhalved(), Halved()
    for net in (first, second, other, copy.deepcopy(other), first):
        kept = graph_of(net)
        assert kept is graph_of(first)
    assert proven == [first, other]
    monkeypatch.undo()
    kept._proven.clear()
    graph_of(second)
    with pytest.raises(UserError, match=r"Halved|net cannot .*would be others by .*; change"):
        graph_of(other)


class Flagged(Net):
    """Halved by an attribute, a global, a default, or a method of another name."""

    def __init__(self, halved: bool):
        super().__init__()
        self.kept = {"halved": [halved]}

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.halved()):
            return super().forward(x).float()

    def halved(self) -> bool:
        return self.kept["halved"][0] or HALVED


HALVED = False


class Helped(Flagged):
    def halved(self) -> bool:
        return True


class Called(Flagged):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2


def test_a_network_is_proven_again_where_its_code_or_what_that_reads_is_another(monkeypatch):
    """Although forward and trace are the same; a copy, and other weights, need no proof."""
    plain = Flagged(False)
    kept = graph_of(plain)
    proven, prove = [], graph.prove
    monkeypatch.setattr(graph, "prove", lambda net, *of: (proven.append(net), prove(net, *of)))
    for net in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), Flagged(False)):
        assert graph_of(net.train()) is kept
    assert not proven
    changed = copy.deepcopy(plain)
    changed.kept["halved"][0] = True
    for net in (Flagged(True), changed, Helped(False), Called(False)):
        with pytest.raises(UserError, match="would be others by"):
            graph_of(net)
    monkeypatch.setattr(f"{__name__}.HALVED", True)
    with pytest.raises(UserError, match="would be others by"):
        graph_of(plain)


def test_what_follows_from_values_is_found_anew():
    straight, mixed = Picking(torch.arange(64)), Picking(torch.randperm(64))
    for network in (straight, mixed, straight):
        found, fresh = graph_of(network), Graph(network)
        assert found.by_values and fresh.by_values
        assert found.layers == fresh.layers and found.refused == fresh.refused
    straight.order.copy_(mixed.order)
    assert graph_of(straight).layers == Graph(mixed).layers


def test_answers_in_another_order_are_no_reason_to_compute():
    net = models.build("lenet", num_classes=10, in_channels=1)
    views = [models.answering(net, order) for order in (range(9, -1, -1), range(10))]
    found = [graph_of(view) for view in views]
    assert not found[0].by_values and graph_of(views[0]) is found[0] is not found[1]


def test_nothing_is_kept_alive():
    gc.collect()
    before = len(graph._graphs), len(graph._last)
    net = Net()
    net.leaf.pool = lambda x, size, own=net: F.avg_pool2d(x, size)  # knows its network
    stitched = StitchedNetwork(net, "conv", net, "conv")
    view = view_of(stitched)
    piece = features(copy.deepcopy(net), ["act", "output"])
    kept = [weakref.ref(value) for value in (net, stitched, view, piece, net.conv.weight)]
    kept += [weakref.ref(graph_of(network)) for network in (net, stitched)]
    del net, stitched, view, piece
    gc.collect()
    assert [value() for value in kept] == [None] * len(kept)
    assert (len(graph._graphs), len(graph._last)) == before


def test_a_graph_holds_no_tensor():
    """Of a network that has to be computed, too, whose own modules are run."""
    for make in (Net, lambda: Picking(torch.arange(64))):
        network = make()
        kept = [weakref.ref(value) for value in (network, *network.parameters())]
        found = Graph(network)
        del network
        gc.collect()
        assert not any(value() is not None for value in kept)
        assert found.layers


def test_a_network_carries_no_graph():
    net = models.build("tiny10", num_classes=10, in_channels=1)
    before = {path: set(vars(module)) for path, module in net.named_modules()}, pickle.dumps(net)
    view_of(net)
    features(net, ["bn3"])
    after = {path: set(vars(module)) for path, module in net.named_modules()}, pickle.dumps(net)
    assert before == after


def test_a_folded_view_and_a_joined_network_leave_the_graph_alone():
    net = models.build("tiny10", num_classes=10, in_channels=1).eval()
    found = graph_of(net)
    before = str(found.graph), {node: list(node.users) for node in found.graph.nodes}
    Folded(net)
    join(net, "bn3", net, "bn3", nn.Identity())
    features(net, ["relu2", "output"])
    assert (str(found.graph), {node: list(node.users) for node in found.graph.nodes}) == before


def test_threads_that_ask_at_once_make_one(made):
    net, found = Net(), []
    threads = [threading.Thread(target=lambda: found.append(graph_of(net))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len({id(one) for one in found}) == 1 and len(found) == 6


@pytest.mark.parametrize("controls, graphs, attacked", [((), 2, 5), (("--controls",), 4, 7)])
def test_a_stitch_makes_one_for_its_donors_and_one_for_what_it_joins(
    controls, graphs, attacked, made, tiny10s, call_script, tmp_path, monkeypatch
):
    """Random fronts lie in memory in another order, and so does what is made of them. What is
    attacked is folded once."""
    folded, begin = [], Folded.__init__
    monkeypatch.setattr(Folded, "__init__", lambda self, n: folded.append(n) or begin(self, n))
    done = call_script(
        *("find_transform.py", *tiny10s, "bn3", "bn3", "digits", "-e", 1, "--debug", *controls),
        *("--robust-images", 4, "--tier", "quick", "-o", tmp_path, "--run-name", "a"),
    )
    assert done.status == 0, done.err
    assert len(made) == graphs and len(folded) == attacked
