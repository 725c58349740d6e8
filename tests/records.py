"""Runs that were never made: the JSON that a stitch leaves, with a few numbers."""

from pathlib import Path

from robust_stitching.basics.files import write_json


def record_of(accuracy: float = 0.5, **changed) -> dict:
    """A record as `stitching.record.as_record` makes it, with what is `changed` of its settings."""
    scores = {"accuracy": accuracy, "overlap_with_end": {"rr": 0.25}, "robust": None}
    return {
        "command": "python src/bin/find_transform.py a.pt b.pt relu1 relu2 digits",
        "params": {
            "front_layer": "relu1",
            "end_layer": "relu2",
            "epochs": 3,
            "seed": 7,
            "low_rank": None,
            "flatten": False,
            "adversary": None,
            "debug": False,
            **changed,
        },
        "donors": {
            "front": {"path": "a.pt", "model": "lenet"},
            "end": {"path": "b.pt", "model": "tiny10"},
        },
        "data": {"name": "Digits", "n_images": 360},
        "cka": 0.75,
        "l2": None,
        "front": scores,
        "end": scores,
        "untrained": scores,
        "stitched": scores,
        "direct_matching": None,
        "attacks": None,
        "elsewhere": None,
    }


def leave(out: Path, name: str, time: str = "2026-01-02_03-04-05", **changed) -> Path:
    """A finished run; returns its JSON file."""
    path = out / name / "json" / f"lenet-tiny10_{time}.json"
    write_json(path, record_of(**changed))
    return path
