"""Claim: an epoch of batches, mirrored and cropped, takes at most a quarter of the time of a
DataLoader with torchvision's transforms, and every image is right to a rounding of float32.

    python benchmarks/peers/loading.py
    python benchmarks/peers/loading.py --workers 2

Random 32×32 colour images in memory, batches of 128. The other side is what most people write:
`RandomCrop(32, padding=4)`, `RandomHorizontalFlip` and `ToTensor` on pictures of Pillow, as
torchvision's CIFAR10 gives them, and the same by `transforms.v2` on tensors. It needs no peer but
torchvision, which the project needs itself.

Held to float64: every image of an epoch is one of the 2 × 81 views of its original, divided by 255
in float64; how far the nearest is off, how many views are met with, and what share is mirrored.
"""

from collections.abc import Callable, Iterable
from importlib import import_module

import torch
from _peers import OURS, options, side_by_side, told
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from robust_stitching.data import Split
from robust_stitching.data.source import NATURAL
from robust_stitching.data.vision import torchvision

ROUNDS, SIZE, BATCH, PADDING = 5, 32, 128, 4
PILLOW, TENSORS = "torchvision", "transforms.v2"
LOOKED_AT = 1000


class Images(Dataset):
    """Images and their numbers, transformed one by one."""

    def __init__(self, items: list, transform: Callable):
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(self.items[number]), number


def main() -> None:
    parser = options(__doc__, ROUNDS)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=0, help="processes of a DataLoader")
    asked = parser.parse_args()
    transforms = torchvision().transforms
    v2 = import_module("torchvision.transforms.v2")
    generator = torch.Generator().manual_seed(0)
    shape = (asked.images, 3, SIZE, SIZE)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    split = Split("random", images, torch.arange(asked.images), tuple("01"), NATURAL)
    crop = {"size": SIZE, "padding": PADDING}
    on_pictures = transforms.Compose(
        [transforms.RandomCrop(**crop), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    on_tensors = v2.Compose(
        [v2.RandomCrop(**crop), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    )
    sources = {
        OURS: lambda: split.epoch(BATCH, seed=0, epoch=0),
        PILLOW: loader(
            Images([*map(transforms.functional.to_pil_image, images)], on_pictures), asked.workers
        ),
        TENSORS: loader(Images([*images], on_tensors), asked.workers),
    }
    found = side_by_side(
        {name: lambda source=source: drained(source()) for name, source in sources.items()}, asked
    )
    print(f"{asked.images:,} images, {asked.workers} workers:")
    found.tell()
    off = {name: looked_at(name, source(), images) for name, source in sources.items()}
    told(
        ratio=found.ratios[PILLOW],
        tensors=found.ratios[TENSORS],
        difference=off[OURS],
        theirs=off[PILLOW],
    )


def loader(dataset: Dataset, workers: int) -> Callable[[], Iterable]:
    return lambda: DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)


def drained(batches: Iterable) -> int:
    """Take all batches; how many images there were."""
    return sum(len(images) for images, _ in batches)


def looked_at(name: str, batches: Iterable, originals: Tensor) -> float:
    """Print what an epoch's first images are; how far the worst is from any view of its own."""
    worst, views, mirrored, seen = 0.0, set(), 0, 0
    for images, numbers in batches:
        for image, number in zip(images, numbers.tolist(), strict=True):
            off, view = nearest(image.double(), originals[number])
            worst, seen = max(worst, off), seen + 1
            views.add(view)
            mirrored += view >= (2 * PADDING + 1) ** 2
        if seen >= LOOKED_AT:
            break
    print(
        f"{name:14} off float64 by {worst:.0e} at most; {len(views)} of 162 views in {seen:,} "
        f"images, {mirrored / seen:.0%} mirrored"
    )
    return worst


def nearest(image: Tensor, original: Tensor) -> tuple[float, int]:
    """The largest difference to the view of `original` that is nearest, and its number."""
    padded = pad(original, (PADDING,) * 4).double() / 255
    plain = padded.unfold(1, SIZE, 1).unfold(2, SIZE, 1).flatten(1, 2)  # (3, 81, 32, 32)
    views = torch.cat([plain, plain.flip(-1)], dim=1)
    # The views of random pixels differ in nearly all of them: a row tells which it is.
    view = int((views[:, :, SIZE // 2] - image[:, None, SIZE // 2]).abs().sum(dim=(0, 2)).argmin())
    return float((views[:, view] - image).abs().max()), view


if __name__ == "__main__":
    main()
