"""CelebA (Liu et al., 2015): faces with 40 binary attributes, streamed."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robust_stitching.data.source import NATURAL, Files, Missing, Source

PARTS = ("0", "2")  # train and test; 1, for validation, stays unused
PARTITION = "list_eval_partition.txt"


def _read(root: Path) -> list[Files]:
    """The files as torchvision keeps them, once their lists have the published checksums."""
    import numpy as np
    import torch

    from robust_stitching.data.vision import torchvision

    known = torchvision().datasets.CelebA
    folder = root / known.base_folder
    pictures = folder / "img_align_celeba"
    try:
        with _collection_paused():
            whole = known(root, split="all")
        parts = [line.split()[1] for line in (folder / PARTITION).read_text().splitlines()]
    except RuntimeError as error:  # torchvision's word for missing files and wrong checksums
        lists = [name for *_, name in known.file_list if name.endswith(".txt")]
        gone = [name for name in (*lists, pictures.name) if not (folder / name).exists()]
        amiss = f"misses {', '.join(gone)}" if gone else "has lists that are not the published ones"
        raise Missing(
            f"was not found in {root}: {folder} {amiss}; put the images into {pictures} and the "
            "lists beside it, as torchvision does"
        ) from error
    except (OSError, ValueError, IndexError) as error:
        raise Missing(
            f"was not found in {root}: the lists in {folder} cannot be read ({error}); copy them "
            "again"
        ) from error
    paths = np.array([f"{pictures / name}".encode() for name in whole.filename])
    names = tuple(name for name in whole.attr_names if name)  # their line ends with a space
    chosen = [np.array(parts) == part for part in PARTS]
    return [Files(paths[rows], whole.attr[torch.from_numpy(rows)].long(), names) for rows in chosen]


@contextmanager
def _collection_paused() -> Iterator[None]:
    """The lists are eight million numbers on their way through Python's; searching those for
    garbage takes most of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


SOURCES = (
    Source(
        key="celeba",
        name="CelebA",
        read=_read,
        root="celeba",
        classes=None,
        image_size=32,
        shorter_side=32,
        augmentation=NATURAL,
        mean=(0.5063, 0.4258, 0.3832),  # as in code that trains on the aligned images; not measured
        std=(0.3107, 0.2904, 0.2897),
        epsilon=8 / 255,
    ),
)
