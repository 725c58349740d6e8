"""All that is measured of the networks of one stitching run, on one split."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import accuracy_of
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.graphs import graph
from robust_stitching.similarity import Moments, OutputComparison, compare_outputs
from robust_stitching.similarity.blocks import Blocks, largest_block
from robust_stitching.similarity.gathering import Answers
from robust_stitching.similarity.gram import LEAST_IMAGES, GramSums, normalised
from robust_stitching.similarity.jackknife import blocks_of, interval
from robust_stitching.similarity.left_out import LeftOut
from robust_stitching.similarity.stream import Batch, NetworkStream, Stream
from robust_stitching.stitching.once import BATCH_SIZE, NOTHING, Known, answers, answers_of
from robust_stitching.stitching.ood import Distances, OutOfDistribution, Typical

FRONT, END = "front", "end"


@dataclass(frozen=True)
class Scores:
    """One network's line in the table of results.

    Attributes
    ----------
    accuracy, loss : None for a front whose classes are not those of the data.
    relative_accuracy : accuracy over that of the end network.
    outputs : agreement, cross-entropy and overlap with the end network.
    cka_to_end, debiased_cka_to_end, l2_to_end : between the activation at the cut (behind the map,
        for a stitched network) and the end network's own. CKA is linear, exact and debiased: where
        features outnumber images the exact one is near 1 whatever they are. l2 is the mean over
        images of the Euclidean distance, None where shapes differ.
    relative_l2_to_end : ‖Â − A‖ / ‖A‖, Frobenius norms over all images, A the end network's own
        activations; what `objective=direct` lowers. None where shapes differ or A is 0.
    debiased_cka_to_end_interval : of the debiased one, 95%, by the jackknife, see
        `similarity.jackknife`; None where there is none.
    logit_cka_to_end, logit_l2_to_end, relative_logit_l2_to_end : the same of the logits.
    ood : how far the activation behind a map is out of the end's distribution.
    """

    accuracy: float | None
    loss: float | None
    n_images: int
    relative_accuracy: float | None = None
    outputs: OutputComparison | None = None
    cka_to_end: float | None = None
    debiased_cka_to_end: float | None = None
    debiased_cka_to_end_interval: tuple[float, float] | None = None
    l2_to_end: float | None = None
    relative_l2_to_end: float | None = None
    logit_cka_to_end: float | None = None
    logit_l2_to_end: float | None = None
    relative_logit_l2_to_end: float | None = None
    ood: OutOfDistribution | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the JSON report, which has `ood` elsewhere."""
        values = asdict(self)
        del values["ood"]
        outputs = values.pop("outputs") or {}
        values |= {
            "agreement_with_end": outputs.get("agreement"),
            "agreement_probability": outputs.get("agreement_probability"),
            "agreement_probability_interval": outputs.get("agreement_probability_interval"),
            "kappa": outputs.get("kappa"),
            "cross_entropy_to_end": outputs.get("cross_entropy"),
            "overlap_with_end": outputs.get("overlap"),
        }
        for share in ("accuracy", "agreement_with_end"):
            values[f"{share}_interval"] = interval_of(values[share], self.n_images)
        values["overlap_with_end_interval"] = self.outputs and {
            part: interval_of(share, self.n_images) for part, share in self.outputs.overlap.items()
        }
        return values


def measure(
    networks: Mapping[str, tuple[nn.Module, str]],
    split: AnySplit,
    similarity: bool = True,
    progress: Progress = silent,
    known: Mapping[str, Known] = NOTHING,
    similarity_images: int | str | None = None,
    seed: int = 0,
    typical: Typical | str | None = None,
) -> dict[str, Scores]:
    """Scores of every network on `split`, each against the one called "end".

    Parameters
    ----------
    networks : name to (network, layer whose activation is compared).
    similarity : compare activations and logits too, not only answers.
    known : what is known of some of them, the answers of which are looked up there.
    similarity_images : how many images activations are compared on, chosen by the seed; None takes
        all.
    typical : what the end makes of training images at its layer, see `ood.typical_at`; None for
        nobody wants to know how far out the others are.
    """
    plain = {name: network for name, (network, _) in networks.items()}
    logits, at_cut = answers(plain, split, known, progress), {}
    compared_on = looked_on(split, similarity_images, seed)
    if not similarity or compared_on is not split:
        others = {name: network for name, network in plain.items() if name not in known}
        logits |= answers_of(others, split, progress)
    if similarity:
        others, at_cut = _looked_at(networks, compared_on, progress, logits, typical, seed)
        logits |= others
    return {
        name: scored(logits[name], logits[END], split.labels, at_cut.get(name), similarity)
        for name in networks
    }


def looked_on(split: AnySplit, images: int | str | None, seed: int) -> AnySplit:
    """The images of a split on which activations are compared: so many, or all where that is no
    number or there are fewer."""
    some = isinstance(images, int) and images < len(split)
    return split.sample(images, seed) if some else split


class Gap(NamedTuple):
    """Of each image, the distance from the end's own values, and their norm; both (N,)."""

    distances: Tensor
    norms: Tensor

    @classmethod
    def between(cls, own: Tensor, reference: Tensor) -> "Gap":
        """Of values (N, …) of one shape, in float64."""
        reference = reference.double()
        apart = own.double() - reference
        return cls(*(values.flatten(1).norm(dim=1) for values in (apart, reference)))

    @classmethod
    def joined(cls, gaps: Sequence["Gap"]) -> "Gap":
        return cls(*map(torch.cat, zip(*gaps, strict=True)))

    def mean(self) -> float:
        return self.distances.mean().item()

    def relative(self) -> float | None:
        """As a share of the end's own values; None where these are 0."""
        return _number((self.distances.norm() / self.norms.norm()).item())


class AtCut(NamedTuple):
    """What was seen of a network's activations beside the end's own.

    Attributes
    ----------
    cka, debiased_cka : exact and debiased.
    interval : of the debiased one, see `Scores`.
    gap : from the end's own; None where shapes differ.
    ood : see `Scores`; None where nobody looked.
    """

    cka: float
    debiased_cka: float
    gap: Gap | None
    ood: OutOfDistribution | None
    interval: tuple[float, float] | None = None


def scored(
    own: Tensor, reference: Tensor, labels: Tensor, at_cut: AtCut | None, similarity: bool
) -> Scores:
    """The scores of a network by its logits and those of the end, and by what was seen at the cut,
    where activations were compared.

    A front that was trained on other classes answers other questions: it has no accuracy.
    """
    seen = {}
    if at_cut is not None:
        seen = {
            "cka_to_end": _number(at_cut.cka),
            "debiased_cka_to_end": _number(at_cut.debiased_cka),
            "debiased_cka_to_end_interval": at_cut.interval,
            "l2_to_end": at_cut.gap and at_cut.gap.mean(),
            "relative_l2_to_end": at_cut.gap and at_cut.gap.relative(),
            "ood": at_cut.ood,
        }
    if own.shape != reference.shape:
        return Scores(None, None, len(labels), **seen)
    accuracy, best = accuracy_of(own, labels), accuracy_of(reference, labels).accuracy
    return Scores(
        accuracy=accuracy.accuracy,
        loss=accuracy.loss,
        n_images=accuracy.n_images,
        relative_accuracy=accuracy.accuracy / best if best else None,
        outputs=compare_outputs(own, reference, labels),
        **seen,
        **(_logit_similarity(own, reference) if similarity else {}),
    )


def _looked_at(
    networks: Mapping[str, tuple[nn.Module, str]],
    split: AnySplit,
    progress: Progress,
    known: Collection[str],
    typical: Typical | str | None,
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, AtCut]]:
    """By the names of the networks: the logits of those that are not `known`, and what is seen of
    their activations beside those of "end"."""
    layouts = {name: graph.layout_of(*cut) for name, cut in networks.items()}
    looked_at = [(network, {layer: layouts[name]}) for name, (network, layer) in networks.items()]
    names = list(networks)
    asked = [number for number, name in enumerate(names) if name not in known]
    stream, own_answers = NetworkStream(looked_at, split, BATCH_SIZE, answering=asked), Answers()
    out = None
    if typical is not None:
        mapped = [name for name in names if name not in (FRONT, END)]
        out = Distances(typical, layouts[END], names, END, mapped)
    held = largest_block(next(networks[END][0].parameters()).device)
    how = {"takers": [own_answers.take], "block_bytes": held, "seed": seed}
    at_cut = compared(stream, names, progress, out, **how)
    logits = own_answers.logits() if asked else []
    return dict(zip((names[number] for number in asked), logits, strict=True)), at_cut


def compared(
    stream: Stream,
    names: Sequence[Hashable],
    progress: Progress = silent,
    out: Distances | None = None,
    takers: Sequence[Callable[[Batch], None]] = (),
    block_bytes: int | None = None,
    seed: int | None = None,
) -> dict[Hashable, AtCut]:
    """What is seen of activations beside those of "end".

    Parameters
    ----------
    names : of the activations of the stream.
    out : looks how far out some of them are.
    takers : what else its batches are handed to.
    block_bytes : see `Blocks`.
    seed : of the blocks of images that the jackknife leaves out; None for no intervals.
    """
    gaps = defaultdict(list)
    size = stream.n, stream.batch_size, len(names), stream.image_bytes
    end = names.index(END)
    some = [] if seed is None else blocks_of(stream.n, seed)
    left_out = partial(LeftOut, some, end)
    blocks = Blocks(*size, [GramSums, *([left_out] if some else [])], block_bytes)

    def measure_gaps(batch: Batch) -> None:
        activations = dict(zip(names, batch.activations, strict=True))
        for name, own in activations.items():
            if own.shape == activations[END].shape:
                gaps[name].append(Gap.between(own, activations[END]))

    taking = [*takers, measure_gaps, *([] if out is None else [out.take])]
    stream.gather(taking, blocks, progress, "CKA")
    sums = blocks.taken[GramSums]
    exact = normalised(sums.biased())[:, end].tolist()
    debiased = [math.nan] * len(names)
    if stream.n >= LEAST_IMAGES:
        debiased = normalised(sums.unbiased())[:, end].tolist()
    far = {} if out is None else out.found()
    intervals = [None] * len(names)
    if some:
        intervals = _intervals(debiased, blocks.taken[left_out])
    return {
        name: AtCut(
            cka=exact[number],
            debiased_cka=debiased[number],
            gap=Gap.joined(gaps[name]) if name in gaps else None,
            ood=far.get(name),
            interval=intervals[number],
        )
        for number, name in enumerate(names)
    }


def _intervals(values: Sequence[float], left_out: LeftOut) -> list[tuple[float, float] | None]:
    """Of the debiased CKA of each representation with the end's."""
    own = torch.tensor(values, dtype=torch.float64)
    ends = torch.stack(interval(own, left_out.values().cpu(), -1, 1), dim=1).tolist()
    return [(low, high) if math.isfinite(low) else None for low, high in ends]


def _logit_similarity(logits: Tensor, reference: Tensor) -> dict[str, float | None]:
    moments = Moments(logits.shape[1], reference.shape[1], logits.device)
    moments.update(logits, reference)
    gap = Gap.between(logits, reference)
    return {
        "logit_cka_to_end": _number(moments.cka()),
        "logit_l2_to_end": gap.mean(),
        "relative_logit_l2_to_end": gap.relative(),
    }


def _number(value: float | None) -> float | None:
    """None for NaN and infinity: the similarity to something constant, a share of nothing."""
    return value if value is not None and math.isfinite(value) else None
