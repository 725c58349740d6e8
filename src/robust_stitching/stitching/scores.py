"""All that is measured of the networks of one stitching run, on one split."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_stitching.basics.progress import Progress, silent
from robust_stitching.data import AnySplit
from robust_stitching.evaluation import accuracy_of, predict
from robust_stitching.evaluation.intervals import interval_of
from robust_stitching.graphs import graph
from robust_stitching.similarity import Moments, OutputComparison, compare_outputs
from robust_stitching.similarity.gathering import Answers
from robust_stitching.similarity.gram import LEAST_IMAGES, Blocks, GramSums, normalised
from robust_stitching.similarity.stream import Batch, NetworkStream, Stream
from robust_stitching.stitching.once import BATCH_SIZE, NOTHING, Known, answers

END = "end"


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
    logit_cka_to_end, logit_l2_to_end : the same of the logits.
    """

    accuracy: float | None
    loss: float | None
    n_images: int
    relative_accuracy: float | None = None
    outputs: OutputComparison | None = None
    cka_to_end: float | None = None
    debiased_cka_to_end: float | None = None
    l2_to_end: float | None = None
    logit_cka_to_end: float | None = None
    logit_l2_to_end: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the keys of the JSON report."""
        values = asdict(self)
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
    similarity_images: int | None = None,
    seed: int = 0,
) -> dict[str, Scores]:
    """Scores of every network on `split`, each against the one called "end".

    Parameters
    ----------
    networks : name to (network, layer whose activation is compared).
    similarity : compare activations and logits too, not only answers.
    known : what is known of some of them, the answers of which are looked up there.
    similarity_images : how many images activations are compared on, chosen by the seed; None takes
        all.
    """
    plain = {name: network for name, (network, _) in networks.items()}
    logits, ckas, distances = answers(plain, split, known, progress), {}, {}
    compared_on = looked_on(split, similarity_images, seed)
    if not similarity or compared_on is not split:
        logits |= {
            name: predict(network, split, BATCH_SIZE, progress, f"evaluating {name}")
            for name, network in plain.items()
            if name not in known
        }
    if similarity:
        others, ckas, distances = _looked_at(networks, compared_on, progress, logits)
        logits |= others
    return {
        name: scored(
            logits[name], logits[END], split.labels, ckas.get(name), distances.get(name), similarity
        )
        for name in networks
    }


def looked_on(split: AnySplit, images: int | None, seed: int) -> AnySplit:
    """The images of a split on which activations are compared: all, or so many of them."""
    return split if images is None or images >= len(split) else split.sample(images, seed)


def scored(
    own: Tensor,
    reference: Tensor,
    labels: Tensor,
    ckas: tuple[float, float] | None,
    distances: Tensor | None,
    similarity: bool,
) -> Scores:
    """The scores of a network by its logits and those of the end, and, where activations were
    compared, exact and debiased CKA at the cut, and the distance of each image's from the end's.

    A front that was trained on other classes answers other questions: it has no accuracy.
    """
    exact, debiased = ckas or (None, None)
    at_cut = {
        "cka_to_end": _number(exact),
        "debiased_cka_to_end": _number(debiased),
        "l2_to_end": None if distances is None else distances.mean().item(),
    }
    if own.shape != reference.shape:
        return Scores(None, None, len(labels), **at_cut)
    accuracy, best = accuracy_of(own, labels), accuracy_of(reference, labels).accuracy
    return Scores(
        accuracy=accuracy.accuracy,
        loss=accuracy.loss,
        n_images=accuracy.n_images,
        relative_accuracy=accuracy.accuracy / best if best else None,
        outputs=compare_outputs(own, reference, labels),
        **at_cut,
        **(_logit_similarity(own, reference) if similarity else {}),
    )


def _looked_at(
    networks: Mapping[str, tuple[nn.Module, str]],
    split: AnySplit,
    progress: Progress,
    known: Collection[str],
) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]], dict[str, Tensor]]:
    """By the names of the networks: the logits of those that are not `known`, the exact and the
    debiased CKA of their activations with those of "end", and the distance of each image's from it
    where shapes agree."""
    looked_at = [
        (network, {layer: graph.layout_of(network, layer)}) for network, layer in networks.values()
    ]
    names = list(networks)
    asked = [number for number, name in enumerate(names) if name not in known]
    stream, own_answers = NetworkStream(looked_at, split, BATCH_SIZE, answering=asked), Answers()
    ckas, distances = compared(stream, names, progress, [own_answers.take])
    logits = own_answers.logits() if asked else []
    return dict(zip((names[number] for number in asked), logits, strict=True)), ckas, distances


def compared(
    stream: Stream,
    names: Sequence[str],
    progress: Progress = silent,
    takers: Sequence[Callable[[Batch], None]] = (),
    block_bytes: int | None = None,
) -> tuple[dict[str, tuple[float, float]], dict[str, Tensor]]:
    """The exact and the debiased CKA of activations with those of "end", and the distance of each
    image's from it where shapes agree.

    Parameters
    ----------
    names : of the activations of the stream.
    takers : what else its batches are handed to.
    block_bytes : see `Blocks`.
    """
    gaps = defaultdict(list)
    size = stream.n, stream.batch_size, len(names), stream.image_bytes
    blocks = Blocks(*size, [GramSums], block_bytes)

    def measure_gaps(batch: Batch) -> None:
        activations = dict(zip(names, batch.activations, strict=True))
        for name, own in activations.items():
            if own.shape == activations[END].shape:
                gap = own.double() - activations[END].double()
                gaps[name].append(gap.flatten(1).norm(dim=1))

    stream.gather([*takers, measure_gaps], blocks, progress, "CKA")
    sums, end = blocks.taken[GramSums], names.index(END)
    exact = normalised(sums.biased())[:, end].tolist()
    debiased = [math.nan] * len(names)
    if stream.n >= LEAST_IMAGES:
        debiased = normalised(sums.unbiased())[:, end].tolist()
    return (
        dict(zip(names, zip(exact, debiased, strict=True), strict=True)),
        {name: torch.cat(parts) for name, parts in gaps.items()},
    )


def _logit_similarity(logits: Tensor, reference: Tensor) -> dict[str, float | None]:
    moments = Moments(logits.shape[1], reference.shape[1], logits.device)
    moments.update(logits, reference)
    gap = (logits.double() - reference.double()).norm(dim=1).mean().item()
    return {"logit_cka_to_end": _number(moments.cka()), "logit_l2_to_end": gap}


def _number(value: float | None) -> float | None:
    """None for NaN: the similarity to something constant is not defined."""
    return None if value is None or value != value else value
