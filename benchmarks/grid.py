"""Claim: training all maps between two networks in one pass takes at most 0.6 (tiny10) or 0.7
(resnet_w1) of the time of the single trainings, and the whole command, with measures and attacks,
at most 0.35 or 0.4 of that of single commands.

    python benchmarks/grid.py [tiny10|resnet_w1] [--cells 10] [--images 5000] [--whole]

Networks have fresh weights, since time depends on no weight; images are random ones of 32×32 with
three channels. The single trainings are those of so many cells, spread over the grid, scaled to all
of them. With `--whole`, the results of both sides are measured and attacked, too, on 1,000 images.
"""

import argparse
import time

import torch
from _common import told

from robust_stitching import models
from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import Split
from robust_stitching.plans import DataRef, GridPlan, NetworkRef, from_flat
from robust_stitching.stitching.fit import find_map
from robust_stitching.stitching.grid.cells import cells_of
from robust_stitching.stitching.grid.run import stitch_grid
from robust_stitching.stitching.grid.training import groups_of, train_cells
from robust_stitching.stitching.run import stitch
from robust_stitching.training.objectives import LABELS

TESTED = 1000
CLASSES = tuple(map(str, range(10)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="tiny10")
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    donors = [fresh(args.model, seed) for seed in (0, 1)]
    data = random_images(args.images, 0), random_images(TESTED, 1)
    plan = from_flat(
        GridPlan,
        {
            **{side: NetworkRef(f"{side}.pt") for side in ("front", "end")},
            "dataset": DataRef("random"),
            "recipe": "paper",
            "epochs": 1,
            "similarity_images": None,
        },
    )
    cells = cells_of(plan, *(donor.network for donor in donors))
    some = cells[:: max(1, len(cells) // args.cells)][: args.cells]
    measure = whole if args.whole else training
    together, alone = measure(donors, data, plan, cells, some)
    alone *= len(cells) / len(some)
    print(f"{len(cells)} maps together {together:.0f} s, by themselves {alone:.0f} s", end=" ")
    print(f"({len(some)} of them, scaled)")
    print(f"ratio {together / alone:.2f}")
    told(ratio=together / alone)


def training(donors, data, plan, cells, some) -> tuple[float, float]:
    """Seconds of the trainings alone, all at once and those of `some`."""
    front, end = (donor.network for donor in donors)
    plans = {pair: plan.cell(*pair, plan.seed) for pair in cells}
    began = time.perf_counter()
    for group in groups_of(plans, front, end):
        train_cells(front, end, group, *data, LABELS, {}, main=False)
    between = time.perf_counter()
    for pair in some:
        find_map((front, pair[0]), (end, pair[1]), *data, plans[pair], main=False)
    return between - began, time.perf_counter() - between


def whole(donors, data, plan, cells, some) -> tuple[float, float]:
    """Seconds with direct matching, measures and attacks."""
    began = time.perf_counter()
    stitch_grid(*donors, *data, plan)
    between = time.perf_counter()
    for pair in some:
        stitch(*donors, *data, plan.cell(*pair, plan.seed))
    return between - began, time.perf_counter() - between


def fresh(model: str, seed: int) -> Checkpoint:
    network = models.build(model, num_classes=10, in_channels=3, seed=seed).eval()
    return Checkpoint(network, model, None, len(CLASSES), None)


def random_images(n: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Split("Random", images, torch.randint(0, 10, (n,), generator=generator), CLASSES)


if __name__ == "__main__":
    main()
