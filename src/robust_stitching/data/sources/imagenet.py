"""ImageNet's 1,000 classes, or another set of folders like them, streamed."""

from pathlib import Path

from robust_stitching.data.source import Augmentation, Files, Missing, Source

PARTS = ("train", "val")


def _read(root: Path) -> list[Files]:
    from robust_stitching.data.listing import list_parts

    if not all((root / name).is_dir() for name in PARTS):
        raise Missing(
            f"was not found in {root}: {root} needs train/ and val/, each with one folder per "
            "class and images in it"
        )
    return list_parts(root, PARTS)


SOURCES = (
    Source(
        key="imagenet",
        name="ImageNet",
        read=_read,
        root="imagenet",
        classes=None,
        image_size=224,
        shorter_side=256,
        augmentation=Augmentation(flip=True, area=(0.08, 1.0)),
        mean=(0.485, 0.456, 0.406),  # of torchvision's published networks
        std=(0.229, 0.224, 0.225),
        epsilon=4 / 255,
    ),
)
