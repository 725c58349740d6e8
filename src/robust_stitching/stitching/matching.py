"""Direct matching: the map between two layers by least squares, without training anything."""

import logging

from torch import Tensor, nn

from robust_stitching import graph
from robust_stitching.data import Split
from robust_stitching.modes import evaluating
from robust_stitching.progress import Progress, silent
from robust_stitching.similarity import Moments
from robust_stitching.stitching.transform import channels, resize, rows

log = logging.getLogger(__name__)
BATCH_SIZE = 500


def match(
    front: nn.Module,
    front_layer: str,
    end: nn.Module,
    end_layer: str,
    split: Split,
    progress: Progress = silent,
) -> tuple[Tensor, Tensor]:
    """Weight (C_end, C_front) and bias (C_end,) that bring the front's activations closest to the
    end's, over all positions of all images of `split`, unaugmented, in evaluation mode; float32.

    The front's activations are resized to the end's positions first, as in `ChannelMap`.
    """
    head, target = graph.features(front, [front_layer]), graph.features(end, [end_layer])
    shape = graph.shape_of(end, end_layer)
    moments = Moments(
        channels(graph.shape_of(front, front_layer)), channels(shape), split.images.device
    )
    with evaluating(head, target), progress(len(split), "direct matching") as bar:
        for images, labels in split.batches(BATCH_SIZE):
            (x,), (y,) = head(images), target(images)
            moments.update(rows(resize(x, shape)), rows(y))
            bar.update(len(labels))
    weight, bias = moments.least_squares()
    log.debug(
        "direct matching over %d positions: %d of %d front channels are dead",
        moments.n,
        int((moments.xx.diagonal() == 0).sum()),
        len(moments.xx),
    )
    return weight.float(), bias.float()
