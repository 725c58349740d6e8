"""How far the answers of two networks are from each other, whichever is right."""

import torch
from torch import Tensor


def disagreement(logits: Tensor, other: Tensor, multi_label: bool = False) -> float:
    """The share of images for which two networks predict different classes, in [0, 1]; of
    multi-label logits, the share of answers (images × labels) that differ.

    Parameters
    ----------
    logits, other : of shape (N, classes), of the same images, finite.
    """
    _require_finite(logits, other)
    if multi_label:
        differ = (logits > 0) != (other > 0)
    else:
        differ = logits.argmax(dim=1) != other.argmax(dim=1)
    return differ.double().mean().item()


def jensen_shannon(logits: Tensor, other: Tensor, multi_label: bool = False) -> float:
    """The mean over images of the Jensen–Shannon divergence of the softmax outputs p and q,
    ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½(p + q), in nats: 0 to ln 2 (Lin, 1991).

    Of multi-label logits, the mean over images and labels of the divergence of yes and no.

    Parameters
    ----------
    logits, other : of shape (N, classes), of the same images, finite.
    """
    _require_finite(logits, other)
    p, q = (_log_probabilities(values.double(), multi_label) for values in (logits, other))
    middle = torch.logaddexp(p, q) - torch.tensor(2.0, dtype=torch.float64).log()
    parts = (side.exp() * (side - middle) for side in (p, q))
    return max(sum(part.sum(dim=-1).mean().item() for part in parts) / 2, 0.0)


def _require_finite(*logits: Tensor) -> None:
    """Whatever is not finite is greater and smaller than nothing, and would be of some class."""
    if not all(bool(values.isfinite().all()) for values in logits):
        raise ValueError("logits that are NaN or infinite answer nothing")


def _log_probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    if multi_label:
        logits = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
    return logits.log_softmax(dim=-1)
