"""The divergence of the stitched network's answers from the end network's own: what functional
latent alignment may have beside its distances (arXiv 2505.20142, v2), and leaves out by default."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_stitching.basics.labels import choices_of
from robust_stitching.stitching.terms.term import Places, Seen, Term


def _last(places: Places) -> Sequence[str]:
    """The layer that gives the logits."""
    return places.behind[-1:]


def _of_answers(seen: Seen) -> Tensor:
    """Mean over images of KL(p ‖ q), p the end network's softmax and q the stitched network's; of
    attributes, the sum over them, each a Bernoulli distribution."""
    (last,) = seen.layers
    with torch.autocast(seen.logits.device.type, enabled=False):
        log_q, log_p = (
            choices_of(logits.float(), seen.labels).log_softmax(dim=-1)
            for logits in (seen.activations[last], seen.own[last])
        )
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / len(seen.labels)


TERM = Term("kl", _of_answers, _last, unattacked=True)
