"""Terms of an objective besides what the stitched network answers: one a file of this folder, which
has a `Term` called ``TERM``."""

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from robust_stitching.basics.errors import UserError, unknown
from robust_stitching.basics.modes import evaluating
from robust_stitching.graphs import graph
from robust_stitching.graphs.behind import Behind
from robust_stitching.graphs.stitched import StitchedNetwork
from robust_stitching.plans import Objective as ObjectivePlan
from robust_stitching.plans.settings import LARGEST
from robust_stitching.stitching.terms.term import Seen, Term
from robust_stitching.training.objectives import Look, Objective, Outcome, Pass, at_logits

__all__ = ["Seen", "Term", "Watch", "terms", "terms_of", "watch", "weighted"]


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
    for text in plan.terms:
        name, _, written = text.partition("=")
        if name not in terms():
            raise unknown("term", name, terms())
        if name in ("l1", "cka_reg"):
            raise UserError(
                f"the term {name} is a setting of its own; give its weight as `{name}`."
            )
        if name in weights:
            raise UserError(f"the term {name} is named twice; give it one weight.")
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
    layers : of the end network.
    look : a pass of the stitched network that shows its activations there.
    own : gives what the end network itself has there; None where there are no layers.
    """

    cut: str
    layers: Sequence[str]
    look: Look
    own: nn.Module | None

    def seen_in(self, last: Pass, labels: Tensor, network: StitchedNetwork) -> Seen:
        """What a pass shows."""
        own: Sequence[Tensor] = ()
        if self.own is not None:
            with evaluating(self.own), torch.autocast(last.images.device.type, enabled=False):
                own = self.own(last.images)
        whose = dict(zip(self.layers, own, strict=True))
        return Seen(
            last.images,
            labels,
            last.logits,
            self.cut,
            last.activations,
            whose,
            network.transform,
        )


def watch(
    network: StitchedNetwork | Behind, end: nn.Module, layer: str, asked: Mapping[Term, float]
) -> Watch:
    """Look at what the terms want of a network that is stitched to `end` at `layer`."""
    names = list(graph.graph_of(end).layers) if asked else []
    behind = names[names.index(layer) + 1 :] if asked else []
    layers = list(dict.fromkeys(name for term in asked for name in term.layers(layer, behind)))
    if not layers:
        return Watch(layer, (), at_logits, None)
    inside = ["transform" if name == layer else f"end.{name}" for name in layers]
    piece = network.watching([*inside, graph.LOGITS])

    def look(_: nn.Module, images: Tensor) -> Pass:
        *activations, logits = piece(images)
        return Pass(images, logits, dict(zip(layers, activations, strict=True)))

    return Watch(layer, layers, look, graph.features(end, layers))


def weighted(objective: Objective, asked: Mapping[Term, float], watched: Watch) -> Objective:
    """`objective`, which looks as `watched` does, plus weight times value of each term."""
    if not asked:
        return objective

    def whole(network: StitchedNetwork, images: Tensor, labels: Tensor, iteration: int) -> Outcome:
        outcome = objective(network, images, labels, iteration)
        n = len(outcome.last.images)
        seen, loss = watched.seen_in(outcome.last, labels[:n], network), outcome.loss
        for term, weight in asked.items():
            if n >= term.least_images:
                loss = loss + weight * term.value(seen)
        return outcome._replace(loss=loss)

    return whole
