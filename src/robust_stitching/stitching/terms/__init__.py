"""Terms of an objective besides what the stitched network answers: one a file of this folder, which
has a `Term` called ``TERM``."""

import importlib
import math
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.graphs import graph
from robust_stitching.graphs.behind import Behind
from robust_stitching.graphs.stages import stages
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Objective as ObjectivePlan
from robust_stitching.plans.parts import TASK
from robust_stitching.plans.settings import LARGEST
from robust_stitching.stitching.terms.own import OwnActivations
from robust_stitching.stitching.terms.term import Places, Seen, Term
from robust_stitching.training.objectives import Look, Objective, Outcome, Pass, at_logits

__all__ = [
    "OwnActivations",
    "Places",
    "Seen",
    "Term",
    "Watch",
    "terms",
    "terms_of",
    "watch",
    "weighted",
]


@cache
def terms() -> Mapping[str, Term]:
    """Name to term, of every file of this folder."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    return {m.TERM.name: m.TERM for m in modules if hasattr(m, "TERM")}


def terms_of(plan: ObjectivePlan) -> dict[Term, float]:
    """The terms that a plan asks for, with their weights.

    Raises
    ------
    UserError : for an unknown one, one that is named twice, and what is no "name=weight".
    """
    weights = {"l1": plan.l1, "cka_reg": plan.cka_reg}
    if plan.objective != TASK:
        weights[plan.objective] = 1.0
    for text in plan.terms:
        name, _, written = text.partition("=")
        if name not in terms():
            raise unknown("term", name, terms())
        if name in ("l1", "cka_reg"):
            raise UserError(
                f"the term {name} is a setting of its own; give its weight as `{name}`."
            )
        if name in weights:
            once = "it is the objective" if name == plan.objective else "give it one weight"
            raise UserError(f"the term {name} is named twice; {once}.")
        try:
            weights[name] = float(written)
        except ValueError:
            weights[name] = math.nan
        if not abs(weights[name]) <= LARGEST:
            raise UserError(f"the term '{text}' has no weight; write {name}=0.1, say.")
    return {terms()[name]: weight for name, weight in weights.items() if weight}


@dataclass(frozen=True)
class Watch:
    """Where terms look.

    Attributes
    ----------
    cut : the layer of the end network whose activation the map makes.
    layers : of the end network, that each term wants.
    look : a pass of the stitched network that shows its activations where some term looks.
    own : what the end network itself has there.
    """

    cut: str
    layers: Mapping[Term, Sequence[str]]
    look: Look
    own: OwnActivations

    def values(
        self, last: Pass, images: Tensor, labels: Tensor, network: StitchedNetwork
    ) -> Iterator[tuple[Term, Tensor]]:
        """The value of each term.

        Parameters
        ----------
        images, labels : of the pass, before any attack.
        """
        for term, layers in self.layers.items():
            if len(images) < term.least_images:
                continue
            own = self.own.at(layers, images if term.unattacked else last.images)
            seen = Seen(
                *(last.images, labels, last.logits, self.cut, layers, last.activations, own),
                network.transform,
            )
            yield term, term.value(seen)


def watch(
    network: StitchedNetwork | Behind,
    end: nn.Module,
    layer: str,
    asked: Mapping[Term, float],
    own: OwnActivations | None = None,
) -> Watch:
    """Look at what the terms want of a network that is stitched to `end` at `layer`.

    Parameters
    ----------
    own : of `end`, where somebody has it for several stitches.
    """
    own = OwnActivations(end) if own is None else own
    if not asked:
        return Watch(layer, {}, at_logits, own)
    places = places_behind(end, layer)
    wanted = {term: tuple(term.layers(places)) for term in asked}
    layers = list(dict.fromkeys(name for names in wanted.values() for name in names))
    if not layers:
        return Watch(layer, wanted, at_logits, own)
    own.want(layers)
    inside = [name for name in layers if name != graph.LOGITS]
    places = ["transform" if name == layer else f"end.{name}" for name in inside]
    piece = network.watching([*places, graph.LOGITS])

    def look(_: nn.Module, images: Tensor) -> Pass:
        *activations, logits = piece(images)
        seen = dict(zip(inside, activations, strict=True))
        return Pass(images, logits, {**seen, graph.LOGITS: logits})

    return Watch(layer, wanted, look, own)


def places_behind(end: nn.Module, layer: str) -> Places:
    """Where terms can look in a network that is cut at a layer."""
    known = graph.graph_of(end)
    names = list(known.layers)
    behind = names[names.index(layer) + 1 :]
    later = {known.node(name) for name in behind} - {known.node(layer)}
    return Places(layer, behind, [name for name in stages(end) if known.node(name) in later])


def weighted(objective: Objective, asked: Mapping[Term, float], watched: Watch) -> Objective:
    """`objective`, which looks as `watched` does, plus weight times value of each term."""
    if not asked:
        return objective

    def whole(network: StitchedNetwork, images: Tensor, labels: Tensor, iteration: int) -> Outcome:
        outcome = objective(network, images, labels, iteration)
        n, loss = len(outcome.last.images), outcome.loss
        for term, value in watched.values(outcome.last, images[:n], labels[:n], network):
            loss = loss + asked[term] * value
        return outcome._replace(loss=loss)

    return whole
