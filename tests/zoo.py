"""Small networks of every kind that people write, each for images of 3×8×8 or 3×12×12.

`KINDS` is name to a function that makes one; none of them knows this library. What stops a tracer
stands in the forward of each, as people write it. `REFUSED` has those that cannot be cut, with what
has to be said of them.
"""

# ruff: noqa: C417, RUF059, SIM300 (as people write it)

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

KINDS: dict[str, Callable[[], nn.Module]] = {}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {}


def kind(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    KINDS[make.__name__] = make
    return make


def refused(told: str) -> Callable:
    def keep(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        REFUSED[make.__name__] = make, told
        return make

    return keep


class Convolutional(nn.Module):
    """conv, bn, what a subclass has as `body`, mean, fc."""

    def __init__(self, width: int = 6, **parts: nn.Module):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        for name, part in parts.items():
            setattr(self, name, part)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.bn(self.conv(x))).mean((2, 3)))

    def body(self, x: Tensor) -> Tensor:
        return x


# Convolutions


@kind
def sequential():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(True), nn.Flatten(), nn.Linear(216, 5)
    )


@kind
class ViewedFlat(nn.Module):
    """As of 2017: `view` behind a convolution, a relu in place, sizes read off the tensor."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 2)
        self.fc1, self.fc2 = nn.Linear(24, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2), inplace=True)
        x = F.relu(self.conv2(x))
        x = x.view(-1, self.num_flat_features(x))
        x = F.dropout(F.relu(self.fc1(x)), training=self.training)
        return self.fc2(x)

    def num_flat_features(self, x):
        count = 1
        for size in x.size()[1:]:
            count *= size
        return count


class Flatten(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


@kind
class OwnFlatten(nn.Module):
    """As in torch before 1.2: a module that takes the usual order of memory alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.flat, self.fc = nn.Conv2d(3, 4, 3), Flatten(), nn.Linear(144, 5)

    def forward(self, x):
        return self.fc(self.flat(F.relu(self.conv(x))))


@kind
class ViewedBySize(Convolutional):
    def forward(self, x):
        x = self.bn(self.conv(x))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(x.view(x.size(0), -1))


@kind
class Strided(Convolutional):
    """Patches by the strides of the usual order."""

    def __init__(self):
        super().__init__(mix=nn.Conv2d(6, 6, 1))

    def body(self, x):
        x = self.mix(x)
        n, c, h, w = x.shape
        size, strides = (n, c, h // 2, w // 2, 2, 2), (c * h * w, h * w, 2 * w, 2, w, 1)
        return torch.as_strided(x, size, strides).mean((4, 5))


@kind
class AskingStrides(Convolutional):
    def body(self, x):
        y = x.permute(0, 2, 3, 1)
        if not y.is_contiguous():
            y = y.contiguous()
        (n, c, h, w), (sn, sc, sh, sw) = x.shape, x.stride()
        patches = x.as_strided((n, c, h // 2, w // 2, 2, 2), (sn, sc, 2 * sh, 2 * sw, sh, sw))
        return patches.mean((4, 5)) + y.view(n, -1, c).mean(1)[:, :, None, None]


@kind
class Squeezed(Convolutional):
    def forward(self, x):
        x = F.avg_pool2d(self.conv(x), x.size()[2:])
        return self.fc(x.squeeze(-1).squeeze(-1))


@kind
class Options(Convolutional):
    """Arguments that nobody gives."""

    def forward(self, x, mask=None, *, return_features=False, **more):
        x = self.bn(self.conv(x))
        if mask is not None:
            x = x * mask
        if return_features:
            return x
        return self.fc(x.mean((2, 3)))


@kind
class Asserting(Convolutional):
    def forward(self, x):
        assert x.shape[1] == 3, f"colour, not {x.shape}"
        assert x.dim() == 4 and x.ndim == 4 and isinstance(x, torch.Tensor)
        torch._assert(x.dtype == torch.float32, "float")
        n, c, h, w = x.shape
        assert h == w and n > 0
        if x.dim() == 3:
            x = x.unsqueeze(0)
        if x.shape[0] > 100000:
            raise ValueError("too many")
        if not x.is_floating_point():
            x = x.float()
        return super().forward(x)


@kind
class ByChannels(Convolutional):
    """A loop over channels, a list, `len`."""

    def body(self, y):
        parts = [y[:, i : i + 1] * (i + 1) for i in range(y.shape[1])]
        y = torch.cat(parts, 1)
        return y.reshape(len(y), *y.shape[1:])


@kind
class Residual(nn.Module):
    class Block(nn.Module):
        def __init__(self, fan_in, width, stride=1):
            super().__init__()
            self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.shortcut = nn.Sequential()
            if stride != 1 or fan_in != width:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(fan_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                )

        def forward(self, x):
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += self.shortcut(x)
            return self.relu(out)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([self.Block(4, 4), self.Block(4, 8, 2)])
        self.head = nn.ModuleDict({"fc": nn.Linear(8, 5)})

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head["fc"](F.avg_pool2d(x, 4).flatten(1))


@kind
class Preactivated(Convolutional):
    """The ReLU in place rewrites what the skip connection takes."""

    def __init__(self):
        super().__init__(relu=nn.ReLU(inplace=True), conv2=nn.Conv2d(6, 6, 3, padding=1))

    def body(self, x):
        return self.conv2(self.relu(x)) + x


@kind
class Statements(Convolutional):
    def body(self, y):
        y.mul_(3)
        torch.clamp_(y, -1, 2)
        y.add_(y.detach(), alpha=0.5)
        y[:, 0] = 0
        y[:, 1:3].mul_(2)
        first = y.narrow(1, 0, 3)
        first += y[:, 3:]
        y.view(y.size(0), -1)[:, :7] = 1.0
        return y


@kind
class SqueezeExcite(Convolutional):
    def __init__(self):
        super().__init__(
            pool=nn.AdaptiveAvgPool2d(1), down=nn.Linear(6, 2), up=nn.Linear(2, 6), act=nn.SiLU()
        )

    def body(self, x):
        b, c, _, _ = x.size()
        y = self.pool(x).view(b, c)
        y = torch.sigmoid(self.up(self.act(self.down(y)))).view(b, c, 1, 1)
        return x * y.expand_as(x)


@kind
class Inception(Convolutional):
    def __init__(self):
        branches = nn.ModuleList([nn.Conv2d(6, 2, k, padding=k // 2) for k in (1, 3, 5)])
        super().__init__(branches=branches)

    def body(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


@kind
class Dense(Convolutional):
    def __init__(self):
        super().__init__(a=nn.Conv2d(6, 3, 3, padding=1), b=nn.Conv2d(9, 6, 1))

    def body(self, x):
        features = [x]
        features.append(self.a(torch.cat(features, 1)))
        return self.b(torch.cat(features, 1))


@kind
class Shuffled(Convolutional):
    """Channels are shuffled, as in ShuffleNet."""

    def body(self, x):
        n, c, h, w = x.data.size()
        x = x.view(n, 2, c // 2, h, w)
        x = torch.transpose(x, 1, 2).contiguous()
        return x.view(n, -1, h, w)


@kind
class Shared(Convolutional):
    """One module under several names, called more than once."""

    def __init__(self):
        block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
        relu = nn.ReLU()
        super().__init__(one=block, relu1=relu, two=block, relu2=relu)

    def body(self, x):
        return self.relu2(self.two(self.relu1(self.one(x))))


@kind
class CalledOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.output = nn.Conv2d(6, 5, 1)
        self.last = nn.Linear(5, 4)

    def forward(self, x):
        return self.last(self.output(self.conv(x)).mean((2, 3)))


@kind
class Hooked(Convolutional):
    """Forward hooks on the network, a container and a layer, which change what is answered."""

    def __init__(self):
        super().__init__(act=nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1)))
        self.act.register_forward_hook(lambda module, given, out: out * 2)
        self.conv.register_forward_hook(lambda module, given, out: out + 1)
        self.register_forward_pre_hook(lambda module, given: (given[0] - 0.5,))
        self.register_forward_hook(lambda module, given, out: out / 3)

    def body(self, x):
        return self.act(x)


@kind
class WithoutGradients(Convolutional):
    """A gate that no gradient passes, and numbers that go straight through a rounding."""

    def body(self, x):
        with torch.no_grad():
            gate = torch.sigmoid(self.bn(x))
            low, high = gate.aminmax(dim=1, keepdim=True)
        x = x * gate + (low - high)
        return x + (x.round() - x).detach()


class RoundedStraight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


@kind
class OwnGradient(Convolutional):
    def body(self, x):
        return RoundedStraight.apply(x)


@kind
class Checkpointed(Convolutional):
    def __init__(self):
        super().__init__(a=nn.Conv2d(6, 6, 1), b=nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1)))

    def body(self, x):
        x = checkpoint(self.a, x, use_reentrant=False)
        return checkpoint(self.b, x, use_reentrant=True)


class OwnNorm(nn.Module):
    """A batch norm as people write it to understand it."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x):
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(var, 0.1)
        else:
            mean, var = self.running_mean, self.running_var
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class OwnNormOfParts(OwnNorm):
    """Whose scale is a module, too."""

    def __init__(self, width):
        super().__init__(width)
        self.scale = nn.Conv2d(width, width, 1, groups=width)

    def forward(self, x):
        return self.scale(super().forward(x))


@kind
class OwnNorms(Convolutional):
    """A module, a function that is told the mode, and one that is not, as where it is frozen."""

    def __init__(self):
        super().__init__(norm=OwnNorm(6), parts=OwnNormOfParts(6))
        self.register_buffer("frozen_mean", torch.linspace(0, 1, 6))
        self.register_buffer("frozen_var", torch.linspace(1, 2, 6))
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def body(self, x):
        x = self.parts(self.norm(x))
        x = F.batch_norm(x, self.frozen_mean, self.frozen_var)
        return F.batch_norm(x, self.running_mean, self.running_var, training=self.training)


@kind
class GroupNormed(Convolutional):
    def __init__(self):
        super().__init__(norm=nn.GroupNorm(2, 6), instance=nn.InstanceNorm2d(6))

    def body(self, x):
        return self.norm(self.instance(x).relu())


@kind
class StochasticDepth(Convolutional):
    """Blocks that are left out at random while training, dropout in three writings."""

    def __init__(self):
        super().__init__(conv2=nn.Conv2d(6, 6, 1), drop=nn.Dropout2d(0.5))

    def body(self, x):
        y = F.dropout(self.drop(self.conv2(x)), 0.3, self.training)
        if self.training:
            keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < 0.5
            y = y * keep / 0.5
        return x + y


@kind
class Binary(Convolutional):
    """Layers of truths and of whole numbers."""

    def __init__(self):
        super().__init__(mix=nn.Conv2d(6, 6, 3, padding=1), codes=nn.Embedding(6, 6))

    def body(self, x):
        x = x + self.mix((x > 0).float() * 2)
        return x + self.codes(x.argmax(1)).permute(0, 3, 1, 2)


@kind
class OfKeywords(nn.Module):
    """Modules whose names are words of Python."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.branches = nn.ModuleDict({"global": nn.Conv2d(6, 6, 3), "local": nn.BatchNorm2d(6)})
        self.add_module("lambda", nn.Linear(6, 5))

    def forward(self, x):
        x = self.stem(x)
        x = self.branches["global"](x).mean((2, 3)) + self.branches["local"](x).mean((2, 3))
        return getattr(self, "lambda")(x)


@kind
class MadeInTheForward(nn.Module):
    """Modules that the forward makes, and a part of a container."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3)
        )
        self.fc = nn.Linear(24, 5)

    def forward(self, x):
        x = nn.Tanh()(self.features[:3](x))
        x = nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2))(self.features[3:](x))
        return self.fc(nn.Flatten()(x))


@kind
class Position(Convolutional):
    """Coordinates as channels (CoordConv), zeros that are filled: none of it is of the image."""

    def __init__(self):
        super().__init__(mix=nn.Conv2d(9, 6, 1))

    def body(self, x):
        n, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype).view(1, 1, h, 1)
        columns = torch.arange(w, device=x.device).to(x) / w
        rows = rows.expand(n, 1, h, w)
        columns = columns.repeat(n, 1, h, 1)
        zeros = x.new_zeros(n, 1, h, w) + torch.zeros(x.shape[0], 1, h, w, device=x.device)
        return self.mix(torch.cat([x, rows, columns, zeros], 1))


@kind
class Autoencoded(Convolutional):
    """Down, up, and joined to what was there, as in a U-Net; odd sizes are padded."""

    def __init__(self):
        super().__init__(
            down=nn.Conv2d(6, 6, 3, 2), up=nn.ConvTranspose2d(6, 6, 2, 2), mix=nn.Conv2d(12, 6, 1)
        )

    def body(self, x):
        y = self.up(self.down(x))
        dy, dx = x.size()[2] - y.size()[2], x.size()[3] - y.size()[3]
        y = F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        z = F.interpolate(self.down(x), size=x.shape[-2:], mode="bilinear")
        return self.mix(torch.cat([x, y], dim=1)) + z


@kind
class Gated(Convolutional):
    """Maxout, a product with a parameter, an affine map by einsum."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.matrix = nn.Parameter(torch.randn(6, 6))

    def body(self, x):
        one, other = map(lambda part: part * 2, x.split(3, dim=1))
        x = torch.cat([torch.max(one, other), torch.max(x, dim=1, keepdim=True).values] * 2, 1)
        x = torch.einsum("nchw,cd->ndhw", x[:, :6], self.matrix)
        return x * self.gamma.view(1, -1, 1, 1)


class Score(nn.Module):
    """A module that returns a number beside a tensor."""

    def forward(self, x):
        return x, round(float(x.detach().mean()), 1)


@kind
class Scored(Convolutional):
    def __init__(self):
        super().__init__(score=Score())

    def body(self, x):
        x, mean = self.score(x)
        return x * mean


@kind
class Recording(Convolutional):
    """Keeps what it sees, and counts."""

    def __init__(self):
        super().__init__(act=nn.ReLU())
        self.register_buffer("count", torch.zeros(()))
        self.calls, self.last, self.all, self.cache = 0, None, [], {}

    def body(self, x):
        self.calls += 1
        self.all.append(x.detach())
        if "bias" not in self.cache:  # as LeViT does in evaluation mode
            self.cache["bias"] = self.fc.weight.detach().sum()
        x = x + self.cache["bias"]
        self.count += 1
        self.seen = self.last = x.detach()
        self.act.seen = {"input": x.detach()}
        return self.act(x)


@kind
class ReadingWeights(Convolutional):
    """What it computes depends on its weights, in Python."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(6, 1, 1))

    def body(self, x):
        if not any(
            bool(weight.any()) for name, weight in self.named_parameters() if name == "gain"
        ):
            return x * 2
        return x * self.gain


# Transformers


class Attention(nn.Module):
    """timm's and nearly everybody's."""

    def __init__(self, dim, heads=2):
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(0.1), nn.Dropout(0.1)

    def forward(self, x, mask=None):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        if mask is not None:
            attn = attn.masked_fill(mask == 0, -1e9)
        attn = self.attn_drop(attn.softmax(dim=-1))
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj_drop(self.proj(x))


class Fused(Attention):
    def forward(self, x, mask=None):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).transpose(1, 3)
        q, k, v = qkv.unbind(2)
        x = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0
        )
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(B, N, C)))


class Split(Attention):
    """lucidrains' without einops: `chunk`, a `map` over a list of views."""

    def forward(self, x, mask=None):
        b, n, _, h = *x.shape, self.num_heads
        qkv = self.qkv(x).chunk(3, dim=-1)
        q, k, v = map(lambda t: t.view(b, n, h, -1).transpose(1, 2), qkv)
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        out = torch.matmul(dots.softmax(-1), v)
        return self.proj(out.transpose(1, 2).contiguous().view(b, n, -1))


class DropPath(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.p = p

    def forward(self, x):
        if self.p == 0.0 or not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(1 - self.p) / (1 - self.p)


class Block(nn.Module):
    def __init__(self, dim, attention=Attention):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), attention(dim)
        self.drop_path = DropPath()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, size, patch, dim):
        super().__init__()
        self.img_size, self.num_patches = (size, size), (size // patch) ** 2
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x):
        B, C, H, W = x.shape
        assert H == self.img_size[0] and W == self.img_size[1], (
            f"Input image size ({H}*{W}) doesn't match model ({self.img_size[0]})."
        )
        return self.proj(x).flatten(2).transpose(1, 2)


class Vit(nn.Module):
    """timm's, as of 2020."""

    def __init__(self, attention=Attention, size=12, dim=8):
        super().__init__()
        self.patch_embed = PatchEmbed(size, 4, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, self.patch_embed.num_patches + 1, dim))
        self.pos_drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList([Block(dim, attention)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward_features(self, x):
        B = x.shape[0]
        x = self.patch_embed(x)
        cls_tokens = self.cls_token.expand(B, -1, -1)
        x = self.pos_drop(torch.cat((cls_tokens, x), dim=1) + self.pos_embed)
        for blk in self.blocks:
            x = blk(x)
        return self.norm(x)[:, 0]

    def forward(self, x):
        return self.head(self.forward_features(x))


KINDS["vit of timm"] = Vit
KINDS["vit with fused attention"] = partial(Vit, Fused)
KINDS["vit with chunks"] = partial(Vit, Split)


@kind
class VitForCifar(nn.Module):
    """Patches by reshape, tokens repeated, positions interpolated, the mean of tokens."""

    def __init__(self, size=8, patch=2, dim=8):
        super().__init__()
        self.patch, self.embed = patch, nn.Linear(3 * patch * patch, dim)
        self.pos = nn.Parameter(torch.randn(1, 9, dim))
        self.transformer = nn.Sequential(Block(dim))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 5))

    def positions(self, n):
        side = int(n**0.5)
        if n == self.pos.shape[1]:
            return self.pos
        old = int(math.sqrt(self.pos.shape[1]))
        grid = self.pos.reshape(1, old, old, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
        return grid.permute(0, 2, 3, 1).reshape(1, n, -1)

    def forward(self, img):
        p = self.patch
        h, w = img.shape[2] // p, img.shape[3] // p
        x = img.reshape(img.shape[0], 3, h, p, w, p).permute(0, 2, 4, 3, 5, 1).flatten(3)
        x = self.embed(x.flatten(1, 2))
        x = self.transformer(x + self.positions(x.size(1)))
        return self.head(x.mean(dim=1))


@kind
class Unfolded(nn.Module):
    """Patches by `unfold`, learned tokens by number."""

    def __init__(self, dim=8):
        super().__init__()
        self.project = nn.Linear(48, dim)
        self.position = nn.Embedding(4, dim)
        self.layer = Block(dim, Fused)
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.project(F.unfold(x, 4, stride=4).transpose(1, 2))
        x = x + self.position(torch.arange(x.size(1), device=x.device))
        return self.head(self.layer(x).mean(1))


class TorchTransformer(nn.Module):
    def __init__(self, batch_first, dim=8, **options):
        super().__init__()
        self.batch_first = batch_first
        self.conv = nn.Conv2d(3, dim, 4, 4)
        layer = nn.TransformerEncoderLayer(dim, 2, 16, batch_first=batch_first, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.conv(x).flatten(2)
        x = x.permute(0, 2, 1) if self.batch_first else x.permute(2, 0, 1)
        return self.head(self.encoder(x).mean(1 if self.batch_first else 0))


KINDS["torch's transformer"] = partial(TorchTransformer, True, norm_first=True)
KINDS["torch's transformer, sequence first"] = partial(TorchTransformer, False)


@kind
class SequenceFirst(nn.Module):
    """Tokens before images, and a token that is repeated for each of those."""

    def __init__(self, dim=8):
        super().__init__()
        self.conv, self.token = nn.Conv2d(3, dim, 4, 4), nn.Parameter(torch.randn(1, 1, dim))
        self.mix, self.head = nn.Linear(dim, dim), nn.Linear(dim, 5)

    def forward(self, x):
        x = self.mix(self.conv(x).flatten(2).permute(2, 0, 1))
        x = torch.cat([self.token.expand(1, x.shape[1], -1), x])
        return self.head(torch.tanh(x).mean(0))


@kind
class TorchAttention(nn.Module):
    """nn.MultiheadAttention, unpacked, and what it returns besides is looked at."""

    def __init__(self, dim=8):
        super().__init__()
        self.conv = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)
        self.attend = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        y, weights = self.attend(y, y, y, need_weights=False)
        if weights is not None:
            y = y * weights.mean()
        return self.head((x + y).mean(dim=1))


@kind
class Mixer(nn.Module):
    """MLP-Mixer: mixing over tokens, then over channels."""

    def __init__(self, dim=6, tokens=16):
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 2, 2)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.tokens = nn.Sequential(nn.Linear(tokens, 9), nn.GELU(), nn.Linear(9, tokens))
        self.channels = nn.Sequential(nn.Linear(dim, 9), nn.GELU(), nn.Linear(9, dim))
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@kind
class ConvNext(Convolutional):
    def __init__(self):
        super().__init__(
            depthwise=nn.Conv2d(6, 6, 3, padding=1, groups=6),
            norm=LayerNorm2d(6),
            up=nn.Linear(6, 12),
            down=nn.Linear(12, 6),
        )
        self.gamma = nn.Parameter(torch.full((6,), 0.5))

    def body(self, x):
        y = self.norm(self.depthwise(x)).permute(0, 2, 3, 1)
        y = (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        return x + y


@kind
class Windows(nn.Module):
    """Attention in windows, as in Swin: images and windows share the first axis inside."""

    def __init__(self, dim=8, window=2):
        super().__init__()
        self.window, self.stem = window, nn.Conv2d(3, dim, 2, 2)
        self.norm, self.attn, self.head = nn.LayerNorm(dim), Attention(dim), nn.Linear(dim, 5)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        B, H, W, C = x.shape
        s = self.window
        y = torch.roll(self.norm(x), shifts=(-1, -1), dims=(1, 2))
        y = y.view(B, H // s, s, W // s, s, C).permute(0, 1, 3, 2, 4, 5).contiguous()
        y = self.attn(y.view(-1, s * s, C))
        B = int(y.shape[0] / (H * W / s / s))
        y = y.view(B, H // s, W // s, s, s, -1).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, -1)
        return self.head((x + torch.roll(y, (1, 1), (1, 2))).mean((1, 2)))


if find_spec("einops"):
    from einops import rearrange, reduce, repeat
    from einops.layers.torch import Rearrange

    class WithEinops(Attention):
        """lucidrains'."""

        def forward(self, x):
            qkv = self.qkv(x).chunk(3, dim=-1)
            q, k, v = map(lambda t: rearrange(t, "b n (h d) -> b h n d", h=self.num_heads), qkv)
            attn = (torch.matmul(q, k.transpose(-1, -2)) * self.scale).softmax(dim=-1)
            return self.proj(rearrange(torch.matmul(attn, v), "b h n d -> b n (h d)"))

    @kind
    class VitOfEinops(nn.Module):
        """lucidrains' vit-pytorch: patches by a layer, tokens repeated, another way to the end."""

        def __init__(self, size=8, patch=4, dim=8):
            super().__init__()
            self.to_patch_embedding = nn.Sequential(
                Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch),
                nn.LayerNorm(3 * patch**2),
                nn.Linear(3 * patch**2, dim),
            )
            self.pos_embedding = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, dim))
            self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
            self.transformer = Block(dim, WithEinops)
            self.to_latent, self.mlp_head = nn.Identity(), nn.Linear(dim, 5)

        def forward(self, img):
            x = self.to_patch_embedding(img)
            b, n, _ = x.shape
            cls_tokens = repeat(self.cls_token, "1 1 d -> b 1 d", b=b)
            x = torch.cat((cls_tokens, x), dim=1)
            x += self.pos_embedding[:, : (n + 1)]
            x = self.transformer(x)
            y = reduce(x[:, 1:], "b n d -> b d", "mean")
            return self.mlp_head(self.to_latent(x[:, 0] + y))


@kind
class Nothing(nn.Module):
    """No module inside, weights alone."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.weight, self.bias = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return F.linear(F.conv2d(x, self.kernel).relu().mean((2, 3)), self.weight, self.bias)


@kind
class Recurrent(nn.Module):
    """Its first state is made for as many images as there are."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell = nn.Conv2d(3, 6, 4, 4), nn.GRUCell(6, 12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 12)
        for t in self.embed(x).flatten(2).unbind(2):
            h = self.cell(t, h)
        return self.fc(h)


@kind
class TakenNames(nn.Module):
    """Its parts are called what the graphs of torch have, too."""

    def __init__(self):
        super().__init__()
        self.graph, self.code = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.meta, self._graph = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        return self._graph(self.meta(self.code(self.graph(x))).mean((2, 3)))


WHOLE = {
    "torch's transformer": [f"encoder.layers.{i}.self_attn" for i in (0, 1)],
    "torch's transformer, sequence first": [f"encoder.layers.{i}.self_attn" for i in (0, 1)],
    "TorchAttention": ["attend"],
    "OwnNorms": ["parts"],
}
"""Modules with modules inside that are not looked into."""


# Refused


@refused("it decides by numbers that it computes from the images")
class Branching(Convolutional):
    def body(self, x):
        if x.sum() > 0:
            return x
        return -x


@refused("it decides by numbers that it computes from the images")
class Exiting(Convolutional):
    """Leaves early where it is sure."""

    def forward(self, x):
        y = self.conv(x)
        logits = self.fc(y.mean((2, 3)))
        if float(logits.softmax(1).max()) > 0.9:
            return logits
        return self.fc(self.bn(y).mean((2, 3)))


@refused("its answers change by themselves in evaluation mode")
class AlwaysDropping(Convolutional):
    """A dropout that forgets the mode: training is what `F.dropout` does if nobody says."""

    def body(self, x):
        return F.dropout(x, 0.5)


@refused("its answers change by themselves in evaluation mode")
class Noisy(Convolutional):
    def body(self, x):
        return x + torch.randn_like(x)


@refused("it wants mask beside the images, see its forward, line")
class Masked(Convolutional):
    def forward(self, x, mask):
        return self.fc((self.conv(x) * mask).mean((2, 3)))


class Gate(nn.Module):
    def forward(self, x):
        self.mask = torch.sigmoid(30 * x)
        return x


class Reader(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.gate = [gate]

    def forward(self, x):
        return x * self.gate[0].mask


@refused("its module 'reads' answers by what others have kept, too, see its forward, line")
class HandedOn(Convolutional):
    """One module hands a tensor to another behind the back of whoever calls them."""

    def __init__(self):
        super().__init__(gate=Gate(), between=nn.Conv2d(6, 6, 3, padding=1))
        self.reads = Reader(self.gate)

    def body(self, x):
        return self.reads(self.between(self.gate(x)))


class Look(nn.Module):
    def forward(self, x):
        self.dark = (x.mean((1, 2, 3), keepdim=True) < 0.3).float()
        return x


class Brighten(nn.Module):
    def __init__(self, look):
        super().__init__()
        self.look = [look]

    def forward(self, x):
        return x * (1 + self.look[0].dark)


@refused("its module 'brighten' answers by what others have kept, too, see its forward, line")
class HandedOnRarely(Convolutional):
    """What is handed on is the same for most images."""

    def __init__(self):
        super().__init__(look=Look())
        self.brighten = Brighten(self.look)

    def forward(self, x):
        return self.fc(self.brighten(self.conv(self.look(x))).mean((2, 3)))


@refused("it needs the number of images as a plain number")
class OneByOne(Convolutional):
    def body(self, x):
        return torch.stack([image / image.max() for image in x])


@refused("it needs the number of images as a plain number")
class CountingImages(Convolutional):
    def body(self, x):
        return torch.cat([x[i : i + 1] * (i + 1) for i in range(x.shape[0])])


@refused("it needs the number of images as a plain number")
class ManyOtherwise(Convolutional):
    """Statistics of the images themselves, where there are enough of them."""

    def body(self, x):
        enough = x.size(0) // 4 >= 8
        return F.batch_norm(x, None, None, training=True) if enough else x


@refused("it needs the number of images as a plain number")
class InPairs(Convolutional):
    def body(self, x):
        return x * 2 if len(x) % 4 == 0 else x


@refused("it answers with more than one tensor")
class WithFeatures(Convolutional):
    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.mean((2, 3))), x


@refused("the logits of 1 image would be others by up to")
class AloneOtherwise(Convolutional):
    """One image is taken for a test by hand."""

    def body(self, x):
        return x if x.shape[0] > 1 else x * 2


@refused("from layer 'mix' on, see its forward")
class InLowPrecision(Convolutional):
    """Tracing does not see autocast."""

    def __init__(self):
        super().__init__(mix=nn.Conv2d(6, 6, 3))

    def body(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.mix(x).float()


@refused("the gradient at the images of 1 image would be others by up to")
class OverwrittenWithoutGradient(Convolutional):
    def body(self, x):
        with torch.no_grad():
            x.mul_(2)
        return x


@refused("the logits of 1 image would be others by up to")
class HiddenByZeros(AloneOtherwise):
    """As above, in a branch that is worth nothing before it is trained."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(6, 1, 1))

    def body(self, x):
        return x + self.gain * super().body(x)
