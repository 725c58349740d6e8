"""Measuring one network as a plan says: loss and accuracy, and accuracy under attack."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robust_stitching.checkpoints import Checkpoint
from robust_stitching.data import AnySplit, notes_of
from robust_stitching.evaluation import evaluate
from robust_stitching.evaluation.kept import attack_and_keep
from robust_stitching.evaluation.misread import signs
from robust_stitching.evaluation.record import record_of, record_under_attack
from robust_stitching.evaluation.suites import suite, threat_on
from robust_stitching.plans import AttackPlan, DataRef, EvaluatePlan, as_values
from robust_stitching.runs.inputs import data_of, network_of, resolved
from robust_stitching.runs.listener import NOBODY, Listener


def run(plan: EvaluatePlan, device: torch.device, listener: Listener = NOBODY) -> dict[str, Any]:
    """Measure loss and accuracy; returns the record, which also has the plan as it was carried
    out."""
    plan, checkpoint, train, test, notes = _looked_up(plan, device, listener)
    split = test if plan.split == "test" else train
    accuracy = evaluate(checkpoint.network, split, plan.batch_size, listener.progress)
    strange = signs(checkpoint, split, accuracy.accuracy, accuracy.loss)
    listener.warn(*strange)
    return record_of(plan, checkpoint, split, accuracy, [*notes, *strange])


def attack(
    plan: AttackPlan,
    device: torch.device,
    listener: Listener = NOBODY,
    *,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Measure the accuracy under attack; returns the record, which has the plan, too.

    Parameters
    ----------
    keep : a file to which each batch adds what is found; an interrupted call goes on from it.

    Raises
    ------
    UserError : see `kept.attack_and_keep` and `suites.suite`.
    """
    plan, checkpoint, _, test, notes = _looked_up(plan, device, listener)
    split = test if plan.n_images is None else test.sample(plan.n_images, plan.seed)
    threat = threat_on(split, plan.epsilon, plan.norm)
    attacks = suite(
        plan.tier,
        threat,
        len(split.classes),
        steps=plan.steps,
        step_size=plan.step_size,
        restarts=plan.restarts,
        attributes=split.attributes,
    )
    settings = {
        "checkpoint": checkpoint.called,
        "weights": plan.checkpoint.hash,
        "dataset": split.name,
        "data": plan.dataset.hash,
        "n_images": len(split),
        "seed": plan.seed,
        "tier": plan.tier,
        "norm": threat.norm,
        "epsilon": threat.epsilon,
        **attacks.settings,
    }
    listener.warn(*attacks.warnings)
    robustness = attack_and_keep(
        checkpoint.network,
        split,
        attacks,
        settings,
        keep,
        seed=plan.seed,
        batch_size=plan.batch_size,
        progress=listener.progress,
    )
    strange = signs(checkpoint, split, robustness.clean_accuracy())
    listener.warn(*strange)
    settings["notes"] = [*attacks.notes, *notes, *strange]
    settings["batch_size"] = plan.batch_size
    record = record_under_attack(robustness, checkpoint.model, attacks, settings)
    return record | {"plan": as_values(plan)}


def _looked_up(
    plan: Any, device: torch.device, listener: Listener
) -> tuple[Any, Checkpoint, AnySplit, AnySplit, list[str]]:
    """A plan with what its files hold, the network, both splits with their classes in the order of
    its answers, and what a reader of its numbers has to know."""
    named = plan.dataset and resolved(plan.dataset.name)
    checkpoint, known = network_of(plan.checkpoint, "checkpoint", device, dataset=named)
    ref = plan.dataset or DataRef(checkpoint.dataset)
    train, test, dataset = data_of(ref, device, checkpoint, progress=listener.progress)
    listener.tell(*notes_of(train, test))
    (train, _), (test, told) = map(checkpoint.answerable, (train, test))
    notes = [*checkpoint.notes, *told]
    listener.warn(*notes)
    return replace(plan, checkpoint=known, dataset=dataset), checkpoint, train, test, notes
