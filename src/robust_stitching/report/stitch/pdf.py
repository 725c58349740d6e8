"""The report of a stitch for people: a few pages, drawn from what its run left."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from reportlab.platypus import Flowable, Spacer

from robust_stitching import checkpoints
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import replacing
from robust_stitching.report import pages
from robust_stitching.report.folders import finished_at, report_of
from robust_stitching.report.making import making
from robust_stitching.report.stitch import attacked
from robust_stitching.report.stitch.figures import answers, answers_caption, figures_of
from robust_stitching.report.stitch.summary import summary
from robust_stitching.report.stitch.tables import (
    ACCURACY,
    ANSWERS,
    MATCHED_FIRST,
    Table,
    began_matched,
    beside,
    control_rows,
    noise_caption,
    noise_rows,
    ood_caption,
    ood_rows,
    rows,
    similarity_caption,
    similarity_rows,
)
from robust_stitching.report.stitch.text import called_map
from robust_stitching.report.stitch.verdict import verdict


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
    maps = _maps(folder / "matrix" / f"{path.stem}.pt", began_matched(record))
    pdf = folder / "pdf" / f"{path.stem}.pdf"
    try:
        with replacing(pdf) as temporary:
            write_pdf(temporary, record, maps, finished_at(path))
    except KeyError as error:
        raise UserError(f"{path} has no {error}; it is of another version.") from error
    return pdf


def _maps(path: Path, at_match: bool) -> dict[str, Mapping[str, np.ndarray]]:
    """What a map is called to its parts, by their names in the file.

    Parameters
    ----------
    at_match : the map before training is direct matching's.
    """
    kept = checkpoints.read(path)
    try:
        maps = {MATCHED_FIRST if at_match else "before training": kept["initial"], "trained": kept}
        names = list(kept["initial"])
        if kept["direct_matching"] is not None and not at_match:
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
    made_map = [["map", called_map(record["transformation"])]]
    datasets = [record, *([record["elsewhere"]] if record["elsewhere"] else [])]
    story = [
        pages.paragraph(title, pages.TITLE),
        pages.paragraph(_byline(record), pages.BYLINE),
        pages.paragraph(summary(record)),
        *[pages.picture(answers(each), answers_caption(each)) for each in datasets],
        *_verdicts(record),
        *[pages.paragraph(note, label="Note") for note in notes],
        pages.paragraph("What was stitched", pages.SECTION),
        pages.facts(_donor_rows(record), (0.10, 0.45, 0.45)),
        Spacer(1, 4),
        *_results(record),
        *[pages.picture(figure, caption) for figure, caption in figures_of(record, maps)],
        pages.paragraph("How it was made", pages.SECTION),
        pages.paragraph(record["command"], pages.CODE),
        pages.facts(making(record, made_map), (0.25, 0.75)),
    ]
    pages.write(path, title, story, finished)


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


def _results(record: Mapping[str, Any]) -> list[pages.Float]:
    """The tables of the run's dataset, then those of the other one, where there is one."""
    results = _tables(record, record["estimators"])
    if record["elsewhere"]:
        elsewhere = record["elsewhere"]
        results += [
            (f"{heading}: {elsewhere['data']['name']}", rows, caption)
            for heading, rows, caption in _tables(elsewhere, record["estimators"])
        ]
    return [pages.numbers(*table) for table in results]


def _tables(record: Mapping[str, Any], estimators: Mapping[str, str]) -> list[Table]:
    """Heading, rows and caption of what was measured on one dataset."""
    images = f"{record['data']['n_images']:,} images of {record['data']['name']}"
    results = [
        (
            "Accuracy and agreement with the end",
            rows(record, (*ACCURACY, *ANSWERS[:2])),
            "Intervals are Wilson’s, over the images; the spread over trainings is not in them. "
            f"Loss is the cross-entropy with the labels. {images}.",
        ),
        (
            "Answers beside those of the end",
            rows(record, [(_narrow(heading), *how) for heading, *how in ANSWERS[2:]]),
            "Agreement probability: mean of p·q / max(p·p, q·q), p and q the softmax of both. "
            "Kappa: Cohen’s, of being right. CE to end: cross-entropy with the end network’s "
            f"softmax. Last the shares of images. {images}.",
        ),
    ]
    if record["self_stitch"] or record["random_fronts"]:
        caption = (
            "The same end behind other maps and other fronts: before training and by least "
            "squares, or both at once; behind itself and behind fronts that never learned "
            f"anything. {images}."
        )
        results.append(("Controls", control_rows(record), caption))
    if record.get("noise_front"):
        caption = f"{noise_caption(record, estimators)} {images}."
        results.append(("Noise in place of the front", noise_rows(record), caption))
    if record["l2"] is not None or record["cka"] is not None:
        told = [similarity_caption(estimators), "“–” where shapes differ."]
        similarity = similarity_rows(record)
        if record.get("ood"):
            similarity = beside(similarity, ood_rows(record))
            told.append(f"AUROC: {ood_caption(record, estimators)}")
        caption = f"{' '.join(told)} {images}."
        results.append(("Similarity to the end network", similarity, caption))
    if record["attacks"] is not None:
        for heading, table, caption in attacked.tables(record):
            narrow = [[row[0], *map(_narrow, row[1:])] for row in table[:1]]
            results.append((heading, [*narrow, *table[1:]], caption))
    return results


def _narrow(heading: str) -> str:
    """The name of a column on more lines than one, words of it on each."""
    return "\n".join(textwrap.wrap(heading, 12, break_long_words=False))
