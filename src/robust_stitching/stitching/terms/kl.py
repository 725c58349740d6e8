"""The divergence of the stitched network's answers from the end network's own: what functional
latent alignment may have beside its distances (arXiv 2505.20142, v2), and leaves out by default."""

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_stitching.basics.labels import choices_of
from robust_stitching.graphs.graph import LOGITS
from robust_stitching.stitching.terms.term import Seen, Term


def _of_answers(seen: Seen) -> Tensor:
    """Mean over images of KL(p ‖ q), p the end network's softmax and q the stitched network's; of
    attributes, the sum over them, each a Bernoulli distribution."""
    with torch.autocast(seen.logits.device.type, enabled=False):
        log_q, log_p = (
            choices_of(logits.float(), seen.labels).log_softmax(dim=-1)
            for logits in (seen.logits, seen.own[LOGITS])
        )
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / len(seen.labels)


TERM = Term("kl", _of_answers, lambda places: [LOGITS], unattacked=True)
