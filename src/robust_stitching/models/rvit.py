"""Robust Vision Transformer, pooling variant (Mao et al., 2022), tiny.

There are no position embeddings and no class token: any image of at least 16 pixels fits, and what
is classified is the mean over space. Published checkpoints load by these names.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from robust_stitching.models.layers import Add, Normalize, SpatialMean
from robust_stitching.models.registry import Network, register

WIDTHS, DEPTHS, HEADS = (192, 384), (10, 2), (6, 12)
EXPANSION = 4  # of the hidden layer of an MLP
EPS = 1e-6


class Tokens(nn.Module):
    """(N, C, H, W) to (N, H·W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Grid(nn.Module):
    """(N, tokens, C) to a square map (N, C, √tokens, √tokens)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, (math.isqrt(x.shape[1]), -1))


class Attend(nn.Module):
    """softmax(QKᵀ/√d) V of every head: (N, tokens, 3·C), query, key and value side by side, to
    (N, tokens, C)."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.attend = Attend(heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(self.qkv(x)))


class ConvMlp(nn.Module):
    """A 1×1, a depthwise 3×3 and a 1×1 convolution over the grid of tokens."""

    def __init__(self, width: int):
        super().__init__()
        hidden = EXPANSION * width
        self.grid = Grid()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, width, 1)
        self.bn3 = nn.BatchNorm2d(width)
        self.tokens = Tokens()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.fc1(self.grid(x))))
        x = self.act(self.bn2(self.dwconv(x)))
        return self.tokens(self.bn3(self.fc2(x)))


class Block(nn.Module):
    """Attention and MLP, each with a skip connection and behind a layer norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.add1 = Add()
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = ConvMlp(width)
        self.add2 = Add()

    def forward(self, x: Tensor) -> Tensor:
        x = self.add1(x, self.attn(self.norm1(x)))
        return self.add2(x, self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """Blocks on the tokens of a map."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.tokens = Tokens()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.grid = Grid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.grid(x)


class Pool(nn.Module):
    """Half the resolution, twice the channels, by a depthwise convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, groups=in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PatchEmbedding(nn.Module):
    """Patches of 16 pixels, by convolutions."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, 32, 7, stride=2, padding=2),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(32, width, 4, stride=4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


@register("rvit")
class RobustViT(Network):
    """Ten blocks of 192 channels, pooling, two blocks of 384, mean over space, layer norm, head."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.normalize = Normalize(in_channels)
        self.patch_embed = PatchEmbedding(in_channels, WIDTHS[0])
        self.transformers = nn.ModuleList(map(Transformer, WIDTHS, DEPTHS, HEADS))
        self.pools = nn.ModuleList([Pool(*WIDTHS)])
        self.gap = SpatialMean()
        self.norm = nn.LayerNorm(WIDTHS[-1], eps=EPS)
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transformers[0](self.patch_embed(self.normalize(x)))
        x = self.transformers[1](self.pools[0](x))
        return self.head(self.norm(self.gap(x)))
