"""The report of a stitch for people: a few pages, drawn from what its run left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from reportlab.platypus import Flowable, KeepTogether, Spacer

from robust_stitching import checkpoints
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import replacing
from robust_stitching.evaluation.robustness import WORST
from robust_stitching.report import pages
from robust_stitching.report.folders import finished_at, report_of
from robust_stitching.report.making import making
from robust_stitching.report.stitch import text
from robust_stitching.report.stitch.figures import figures_of
from robust_stitching.report.stitch.verdict import verdict
from robust_stitching.report.tables import shown
from robust_stitching.stitching.record import NETWORKS


def draw(folder: Path) -> Path:
    """Draw the pages of a stitching run, from its JSON report and its matrix file alone: again and
    again the same bytes.

    Returns
    -------
    the PDF, in `folder`/pdf; one that is there is replaced.

    Raises
    ------
    UserError : where these files are missing, damaged, or not those of a stitch.
    """
    path, record = report_of(folder)
    maps = _maps(folder / "matrix" / f"{path.stem}.pt")
    pdf = folder / "pdf" / f"{path.stem}.pdf"
    try:
        with replacing(pdf) as temporary:
            write_pdf(temporary, record, maps, finished_at(path))
    except KeyError as error:
        raise UserError(f"{path} has no {error}; it is of another version.") from error
    return pdf


def _maps(path: Path) -> dict[str, Mapping[str, np.ndarray]]:
    """What a map is called to its parts, by their names in the file."""
    kept = checkpoints.read(path)
    try:
        maps = {"before training": kept["initial"], "trained": kept}
        names = list(kept["initial"])
        if kept["direct_matching"] is not None:
            maps["direct matching"] = kept["direct_matching"]
        return {
            called: {name: one[name].numpy() for name in names if name in one}
            for called, one in maps.items()
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no maps of a stitch; make the run again.") from error


def write_pdf(
    path: Path,
    record: Mapping[str, Any],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    finished: str,
) -> None:
    """Set the report of a run.

    Parameters
    ----------
    maps : what a map is called to its parts.
    finished : when the run was, as it stands in the file's properties.
    """
    donors, params = record["donors"], record["params"]
    title = (
        f"Stitching {donors['front']['model']} {params['front_layer']} → "
        f"{donors['end']['model']} {params['end_layer']} on {record['data']['name']}"
    )
    if record["elsewhere"]:
        title += f", measured on {record['elsewhere']['data']['name']}, too"
    notes = record["notes"] + (record["attacks"] or {}).get("warnings", [])
    figures = enumerate(figures_of(record, maps), start=1)
    story = [
        pages.paragraph(title, pages.TITLE),
        pages.paragraph(_byline(record), pages.BYLINE),
        pages.paragraph(summary(record) + robust_summary(record)),
        *_verdicts(record),
        *[pages.paragraph(note, label="Note") for note in notes],
        pages.paragraph("What was stitched", pages.SECTION),
        pages.facts(_donor_rows(record), (0.10, 0.45, 0.45)),
        Spacer(1, 4),
        *_results(record),
        *[pages.picture(figure, number, caption) for number, (figure, caption) in figures],
        KeepTogether(
            [
                pages.paragraph("How it was made", pages.SECTION),
                pages.paragraph(record["command"], pages.CODE),
                pages.facts(_making(record), (0.25, 0.75)),
            ]
        ),
    ]
    pages.write(path, title, story, finished)


def summary(record: Mapping[str, Any]) -> str:
    """What the run shows, in the sentences one would write first."""
    stitched, end, untrained = record["stitched"], record["end"], record["untrained"]
    relative = stitched["relative_accuracy"]
    told = (
        f"With a trained map, the stitched network is right on {stitched['accuracy']:.2%} of "
        f"{record['data']['n_images']:,} test images; the end network itself on "
        f"{end['accuracy']:.2%}"
    )
    told += f" (relative accuracy {relative:.3f})." if relative is not None else "."
    told += f" Before training, the map gave {untrained['accuracy']:.2%}"
    if record["elsewhere"]:
        other = record["elsewhere"]
        told += (
            f". On {other['data']['n_images']:,} test images of {other['data']['name']}, which it "
            f"was not trained on, it is right on {other['stitched']['accuracy']:.2%}, the end "
            f"network on {other['end']['accuracy']:.2%}"
        )
    if record["direct_matching"] is None:
        return told + "."
    matched, again = record["direct_matching"], record["direct_matching_recalibrated"]
    told += f". Direct matching, which sees no labels, gives {matched['accuracy']:.2%}"
    if again is not None:  # a trained stitch has moved these statistics: so may direct matching
        told += f", and {again['accuracy']:.2%} with the statistics of batch norms estimated again"
    front, trained, direct = (
        shown(values, "cka_to_end", ".3f") for values in (record["front"], stitched, matched)
    )
    return (
        f"{told}. At the cut, linear CKA with the end network's own activations is {front} for the "
        f"front's, {trained} behind the trained map and {direct} behind direct matching."
    )


def robust_summary(record: Mapping[str, Any]) -> str:
    """How the networks do under attack, in a sentence; empty where none was attacked."""
    if record["attacks"] is None:
        return ""
    told = [
        f"{record[name]['robust'][WORST]:.1%} ({name.replace('_', ' ')})"
        for name in NETWORKS
        if (record[name] or {}).get("robust")
    ]
    return (
        f" Under attack within {text.NORM_SIGNS[record['attacks']['norm']]} radius "
        f"{record['attacks']['epsilon']:.4g}, per-image worst case over "
        f"{record['attacks']['n_images']:,} images, accuracy is {', '.join(told)}."
    )


def _verdicts(record: Mapping[str, Any]) -> list[Flowable]:
    """What follows, on each dataset."""
    told = [pages.paragraph(verdict(record), label="Verdict")]
    if record["elsewhere"]:
        other = record["elsewhere"]
        told.append(pages.paragraph(verdict(other), label=f"On {other['data']['name']}"))
    return told


def _byline(record: Mapping[str, Any]) -> str:
    params, data = record["params"], record["data"]
    return (
        f"Map trained on {data['n_train_images']:,} images for {params['epochs']} "
        f"epoch{'s' if params['epochs'] > 1 else ''}, seed "
        f"{params['seed']}; measured on the {data['n_images']:,} test images."
    )


def _donor_rows(record: Mapping[str, Any]) -> list[list[str]]:
    donors, params, shapes = record["donors"], record["params"], record["transformation"]

    def shape(key: str) -> str:
        return "×".join(map(str, shapes[key]))

    front, end = donors["front"], donors["end"]
    return [
        ["", "front", "end"],
        ["network", *(f"{d['model']}, {d['parameters']:,} parameters" for d in (front, end))],
        ["file", *(d["path"] or "in memory" for d in (front, end))],
        ["trained on", *(d["dataset"] or "not known" for d in (front, end))],
        [
            "layer",
            f"{params['front_layer']}, activation {shape('in_shape')}",
            f"{params['end_layer']}, activation {shape('out_shape')}",
        ],
    ]


def _making(record: Mapping[str, Any]) -> list[list[str]]:
    return making(record, [["map", text.called_map(record["transformation"])]])


def _results(record: Mapping[str, Any]) -> list[Flowable]:
    """The tables of the run's dataset, then those of the other one, where there is one."""
    results = _tables(record, record["estimators"])
    if record["elsewhere"]:
        elsewhere = record["elsewhere"]
        results += [
            (f"{heading}: {elsewhere['data']['name']}", rows, caption)
            for heading, rows, caption in _tables(elsewhere, record["estimators"])
        ]
    numbered = enumerate(results, start=1)
    return [pages.numbers(head, rows, number, told) for number, (head, rows, told) in numbered]


def _tables(
    record: Mapping[str, Any], estimators: Mapping[str, str]
) -> list[tuple[str, list[list[str]], str]]:
    """Heading, rows and caption of what was measured on one dataset."""
    images = f"{record['data']['n_images']:,} images of {record['data']['name']}"
    results = [
        (
            "Accuracy and agreement with the end",
            text.rows(record, (*text.ACCURACY[:3], *text.ANSWERS[:2])),
            "Intervals are Wilson’s, over the images; the spread over trainings is not in them. "
            f"Loss is the cross-entropy with the labels. {images}.",
        ),
        (
            "Answers beside those of the end",
            text.rows(record, text.ANSWERS[2:]),
            "Agreement probability: mean of p·q / max(p·p, q·q), p and q the softmax of both. "
            "Kappa: Cohen’s, of being right. CE to end: cross-entropy with the end network’s "
            "softmax. rr, rw, wr, ww: share of images that the network (first letter) and the end "
            f"network (second) get right or wrong. {images}.",
        ),
        (
            "Controls",
            text.control_rows(record),
            "The same end behind other maps and other fronts: before training, by least squares, "
            f"and, with --controls, itself and fronts that never learned anything. {images}.",
        ),
    ]
    if record.get("noise_front"):
        caption = f"{text.noise_caption(record, estimators)} {images}."
        results.append(("Noise in place of the front", text.noise_rows(record), caption))
    if record.get("ood"):
        caption = f"{text.ood_caption(record, estimators)} {images}."
        results.append(("Out of distribution", text.ood_rows(record), caption))
    if record["l2"] is not None or record["cka"] is not None:
        caption = f"{text.similarity_caption(estimators)} “–” where shapes differ. {images}."
        similarity = text.rows(record, text.SIMILARITY)
        results.append(("Similarity to the end network", similarity, caption))
    if record["attacks"] is not None:
        caption = text.attack_caption(record)
        results.append(("Accuracy under attack", text.robust_rows(record), caption))
        caption = text.transfer_caption(record)
        heading, *rows = text.transfer_rows(record)
        narrow = [name.replace(" ", "\n") for name in heading[1:]]
        results.append(("Transfer of attacks", [[heading[0], *narrow], *rows], caption))
    return results
