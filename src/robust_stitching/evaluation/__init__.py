"""How good a network is: loss and accuracy, and the logits from which to compare outputs."""

from robust_stitching.evaluation.accuracy import (
    Accuracy,
    accuracy_of,
    evaluate,
    predict,
)

__all__ = ["Accuracy", "accuracy_of", "evaluate", "predict"]
