"""The values of many measures for all pairs of two sides' representations, in as few passes over
the images as they need."""

from collections.abc import Sequence

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.checkpoints.state import StateFile
from robust_stitching.graphs.layout import Layout
from robust_stitching.similarity.doubts import NO_DOUBTS, Doubts, doubt
from robust_stitching.similarity.forms import CHANNELS, MAPS, OUTPUTS, Settings
from robust_stitching.similarity.gathering import ChannelRows, Maps, Outputs, Values
from robust_stitching.similarity.measure import Measure
from robust_stitching.similarity.rows import Rows
from robust_stitching.similarity.stream import Kept, Stream


def values_of(
    measures: Sequence[Measure],
    stream: Stream,
    layouts: tuple[Sequence[Layout], Sequence[Layout]],
    settings: Settings,
    order: Sequence[int] | None = None,
    progress: Progress = silent,
    state: StateFile | None = None,
    doubts: Doubts = NO_DOUBTS,
) -> Values:
    """The values of `measures` for every representation of side 1 with every one of side 2.

    At the same time in memory are a batch at all layers, what measures of channels and of answers
    keep of every image, and the block of `Blocks` where Gram matrices of all images are needed.

    Parameters
    ----------
    stream : of which a batch holds the representations of side 1, then those of side 2, and the
        answers of both sides.
    layouts : what each representation of an image holds.
    order : for each answer of side 1 the number of the same one of side 2; as they stand if left
        out.
    state : where what was gathered is kept, from which a later call goes on.
    doubts : how far values are to be doubted. Gram matrices are then kept, n² numbers for each
        representation.

    Raises
    ------
    NotFinite : for values that are NaN or infinite, where they are looked at.
    """
    of_outputs, of_maps, of_channels = (
        [measure for measure in measures if measure.of == kind]
        for kind in (OUTPUTS, MAPS, CHANNELS)
    )
    values, count = Values(len(layouts[0])), sum(map(len, layouts))
    parts: list[Outputs | Maps | ChannelRows] = []
    blocks = None
    if of_outputs:
        parts.append(Outputs(of_outputs, settings, order))
    if of_maps:
        parts.append(Maps(of_maps, stream, count, settings, keeps=bool(doubts)))
        blocks = parts[-1].blocks
    if of_channels:
        rows = Rows(layouts, stream.n, settings.positions, settings.seed)
        parts.append(ChannelRows(of_channels, rows, settings))
    kept = Kept(state or StateFile(), parts)
    stream.gather([part.take for part in parts], blocks, progress, kept=kept)
    for part in parts:
        part.finish(values, progress)
    if doubts:
        doubt(values, parts, measures, stream.n, settings, doubts, progress)
    return values
