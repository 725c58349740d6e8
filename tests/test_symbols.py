"""What a forward may ask of its symbols, in one line each, and what it may not."""

import math
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.graph import LOGITS, Graph, features, join

ASKED = {
    "shape": lambda x: x * math.prod(x.shape[1:]) * sum(x.shape[1:]) * max(x.shape[2:]),
    "a part of a shape": lambda x: x * x.shape[1:].numel() * x.size()[2:][0],
    "sizes": lambda x: x * int(math.sqrt(x.size(-1))) * divmod(x.shape[1], 2)[0],
    "a reversed shape": lambda x: x * next(reversed(x.shape[1:])),
    "equal shapes": lambda x: x if x.shape == x.relu().shape else x * 2,
    "as many images": lambda x: x if x.shape[0] == x.relu().shape[0] else x * 2,
    "numbers of images": lambda x: x * (x.shape[0] / len(x)) / x.size(0) * x.shape[0],
    "whole numbers of images": lambda x: x * int(x.shape[0] / 2.0) / max(len(x), int("1")),
    "some images": lambda x: x if x.shape[0] > 0 and len(x) != 10**6 else -x,
    "a batch in a shape": lambda x: x.reshape(max(x.shape[0], 1), -1).reshape(x.shape),
    "a shape with images": lambda x: x.reshape(torch.Size([-1, *x.shape[1:]])),
    "numel": lambda x: x.view(-1, x[0].numel()).view_as(x),
    "a type": lambda x: x.double() if x.dtype == torch.float32 and x.ndim == 4 else x,
    "a type to be": lambda x: x.double().to(x.dtype).type_as(x),
    "a device": lambda x: x if x.device == torch.device("cpu") else x * 2,
    "a device by name": lambda x: x if x.device.type == "cpu" in str(x.device) else x * 2,
    "no GPU": lambda x: x * 2 if x.is_cuda else x,
    "an attribute": lambda x: x if hasattr(x, "nothing") else getattr(x, "relu")(),  # noqa: B009
    "an attribute of one's own": lambda x: (setattr(x, "own", 3), x * x.own)[1],
    "a class": lambda x: x if isinstance(x, Tensor) and torch.is_tensor(x) else x * 2,
    "no parameter": lambda x: x * 2 if isinstance(x, nn.Parameter) else x,
    "its text": lambda x: x if f"{x.shape} {x}" else x * 2,
    "unpacked": lambda x: torch.stack([*x.unbind(1)], 1),
    "counted": lambda x: torch.stack([c * i for i, c in enumerate(x.unbind(1))], 1),
    "zipped": lambda x: sum(a * b for a, b in zip(x.split(1, 1), range(6), strict=True)) + x,
    "values and indices": lambda x: x + x.max(1, keepdim=True).values + x.max(1)[0][:, None],
    "values, unpacked": lambda x: (lambda v, i: x + v)(*x.sort(1)),
    "in a list": lambda x: next(map(torch.relu, [x])),
    "in a dictionary": lambda x: {"x": x}["x"],
    "zeros": lambda x: x + torch.zeros(x.shape[0], 1, 1, 1) + x.new_zeros(len(x), 1, 1, 1),
    "ones": lambda x: x + torch.ones((x.shape[0], 1, 1, 1), device=x.device),
    "full": lambda x: x + torch.full(x.shape, 2.0) + torch.full((len(x), 1, 1, 1), 1.0),
    "broadcast": lambda x: x + torch.broadcast_to(torch.arange(8.0), x.shape),
    "broadcast by a method": lambda x: x + torch.arange(8.0).broadcast_to(x.shape),
    "alike": lambda x: x + torch.full_like(x, 2.0) + torch.zeros_like(x[:, :1]),
    "a range of images": lambda x: x + 0 * torch.arange(x.shape[0])[:, None, None, None],
    "a number inside": lambda x: x * x.mean().item(),
    "what is left of it": lambda x: x + x[x > 0].mean() + x.nonzero().shape[0],
    "positions": lambda x: x + sum(torch.meshgrid(*[torch.arange(8.0)] * 2, indexing="ij")),
    "without gradients": torch.no_grad()(lambda x: x * 2),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
}

COMPUTED = ("a number inside", "what is left of it")
"""Which have no shapes without values."""


def shifted(x: Tensor) -> Tensor:
    return x + 1


NOT = {
    "a value": (lambda x: x if float(x.mean()) > 0 else -x, "decides by numbers"),
    "an assertion": (lambda x: x if not x.isnan().any() else None, "decides by numbers"),
    "a loop": (lambda x: torch.stack([i for i in x]), "number of images"),  # noqa: C416
    "NumPy": (lambda x: torch.from_numpy(x.detach().numpy()), "Symbol"),
    "enough images": (lambda x: x if x.shape[0] >= 32 else -x, "number of images"),
    "a number of images": (lambda x: x if len(x) == 64 else -x, "number of images"),
    "a whole number of parts": (lambda x: x if len(x) % 3 == 0 else -x, "number of images"),
    "hundreds": (lambda x: x if len(x) % 100 == 0 else -x, "number of images"),
    "batches": (lambda x: x if len(x) // 64 == 1 else -x, "number of images"),
    "a difference": (lambda x: x if len(x) - 64 == 0 else -x, "number of images"),
    "a product": (lambda x: x if len(x) * 4 == 256 else -x, "number of images"),
    "in words": (lambda x: x if str(x.shape[0]) == "64" else -x, "number of images"),
    "one of some": (lambda x: x if x.shape[0] in {64, 128} else -x, "number of images"),
    "looked up": (lambda x: x * {64: 2}.get(x.shape[0], 1), "number of images"),
    "a script": (lambda x: torch.jit.script(shifted)(x), "takes plain tensors alone"),
    "vmap": (lambda x: torch.func.vmap(torch.sin)(x), "takes plain tensors alone"),
    "a new tensor": (lambda x: torch.tensor([x.shape[0]]) * x, "number of images"),
    "its kind in words": (lambda x: x if x.type() == "torch.FloatTensor" else -x, "be others by"),
    "how many there are": (lambda x: x + len(x.unique()), "be others by"),
    "chance": (lambda x: x * torch.rand(1), "change by themselves"),
}


class Asking(nn.Module):
    input_shape = (3, 8, 8)
    architecture = {"model": "asking"}  # noqa: RUF012

    def __init__(self, ask):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.ask = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(64, 5), ask

    def forward(self, x):
        return self.fc(self.ask(self.conv(x)).flatten(1)[:, 6:70].float())


@pytest.mark.parametrize("name", ASKED)
def test_what_shapes_tell_is_answered(name):
    network = Asking(ASKED[name]).eval()
    assert Graph(network).by_values is (name in COMPUTED)
    for n in (1, 4):
        x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            (logits,) = features(network, [LOGITS])(x)
            torch.testing.assert_close(logits, network(x))


TOLD = {
    "type_as": lambda h, x: h + torch.linspace(0, 1, 6).view(6, 1, 1).type_as(x),
    "to": lambda h, x: h + torch.ones(1, 6, 1, 1, dtype=torch.float64).to(x),
    "expand_as": lambda h, x: h[:, :3] * torch.linspace(0, 1, 64).view(8, 8).expand_as(x),
    "view_as": lambda h, x: h[:, :3].flatten(1).view_as(x),
    "new_tensor": lambda h, x: h * x.new_tensor([2.0]),
    "new": lambda h, x: h * x.new([2.0]),
    "zeros_like": lambda h, x: h[:, :3] + torch.zeros_like(x),
    "new_zeros": lambda h, x: h[:, :3] + x.new_zeros(x.shape),
    "new_ones": lambda h, x: h * x.new_ones(2 * x.size(0), 1, 1, 1).view(-1, 2, 1, 1)[:, :1],
    "new_empty": lambda h, x: h + 0 * x.new_empty(x.shape[0], 1, 1, 1).fill_(1),
    "new_full": lambda h, x: h + x.new_full((len(x), 6, 1, 1), 2.0),
}
"""What asks the images for no more than their type and shape."""


class Told(nn.Module):
    input_shape = (3, 8, 8)
    architecture = {"model": "told"}  # noqa: RUF012

    def __init__(self, ask):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu, self.ask = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), ask

    def forward(self, x):
        return self.ask(self.relu(self.conv(x)), x).mean((2, 3))


@pytest.mark.parametrize("name", TOLD)
def test_who_is_told_the_type_and_shape_of_images_sees_none(name):
    network, x = Told(TOLD[name]).eval(), torch.rand(3, 3, 8, 8)
    layers = Graph(network).layers
    assert layers["conv"].clean and layers["relu"].clean
    with torch.no_grad():
        for layer in layers:
            torch.testing.assert_close(
                join(network, layer, network, layer, nn.Identity())(x), network(x)
            )


@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")
@pytest.mark.parametrize("from_image", [True, False])
def test_a_new_tensor_with_numbers_of_the_image_shows_it(from_image):
    """Only those of the image itself: those of a layer come through the layer."""

    def ask(h, x):
        return h + h.new_tensor(x.detach() if from_image else h.detach()).mean(1, keepdim=True)

    network, x = Told(ask).eval(), torch.rand(3, 3, 8, 8)
    assert Graph(network).layers["relu"].clean is not from_image
    with torch.no_grad():
        twin = join(network, "relu", network, "relu", nn.Identity())
        torch.testing.assert_close(twin(x), network(x))


@pytest.mark.parametrize("precision", ["float64", "float16", "bfloat16"])
def test_numbers_of_another_precision_are_no_layer(precision):
    """What goes on in float32 behind them is one."""
    network = Asking(lambda x: (x.to(getattr(torch, precision)) * 2).float().relu()).eval()
    traced = Graph(network)
    assert {"conv", "float", "relu"} <= traced.layers.keys()
    for layer in ("to", "mul"):
        with pytest.raises(UserError, match=f"'{layer}' is no .*: its numbers are {precision}, "):
            traced.node(layer)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", NOT)
def test_what_they_do_not_tell_is_refused_with_the_line(name):
    ask, told = NOT[name]
    with pytest.raises(UserError, match=rf"{told}.*, (see its forward, )?line \d+ of {__file__}\)"):
        Graph(Asking(ask).eval())


def test_python_is_as_it_was():
    """Also behind a forward that fails."""
    before = len, isinstance, torch.zeros, Tensor.expand, torch.autograd.Function.apply.__func__
    for ask in (ASKED["shape"], ASKED["whole numbers of images"], NOT["a value"][0]):
        with suppress(UserError):
            Graph(Asking(ask).eval())
    again = len, isinstance, torch.zeros, Tensor.expand, torch.autograd.Function.apply.__func__
    assert again == before and "expand" not in vars(Tensor) and "int" not in globals()
