"""The report for people: a few pages that read like a paper's, set by reportlab."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
from PIL import Image as Picture
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import inch, mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    Flowable,
    Image,
    KeepTogether,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
    TableStyle,
)

from robust_stitching.basics.files import TEMPORARY
from robust_stitching.evaluation.robustness import WORST
from robust_stitching.report import table
from robust_stitching.report.controls import meaning
from robust_stitching.report.figures import WIDTH, figures_of
from robust_stitching.stitching.run import StitchResult

SERIF, BOLD, ITALIC, MONO = "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "DejaVuSansMono"
MARGIN = (A4[0] - WIDTH * inch) / 2
WIDE = 105  # characters: beyond them a table is set smaller
PADDING = 6  # points that reportlab keeps free inside a page frame
TEXT = ParagraphStyle("text", fontName=SERIF, fontSize=10, leading=13, spaceAfter=4)
TITLE = ParagraphStyle("title", TEXT, fontName=BOLD, fontSize=17, leading=21, spaceAfter=2)
BYLINE = ParagraphStyle("byline", TEXT, fontName=ITALIC, textColor=colors.HexColor("#555555"))
SECTION = ParagraphStyle(
    "section", TEXT, fontName=BOLD, fontSize=11.5, leading=15, spaceBefore=9, spaceAfter=3
)
CAPTION = ParagraphStyle("caption", TEXT, fontSize=8.5, leading=10.5, spaceAfter=7)
CODE = ParagraphStyle(
    "code",
    TEXT,
    fontName=MONO,
    fontSize=7.5,
    leading=10,
    backColor=colors.HexColor("#F4F4F4"),
    borderPadding=4,
    splitLongWords=True,
    spaceBefore=4,
    spaceAfter=8,
)


def write_pdf(path: Path, result: StitchResult, record: Mapping[str, Any]) -> None:
    """Set the report of a run."""
    _register_fonts()
    title = (
        f"{result.front.model} {result.plan.cut.front_layer} → "
        f"{result.end.model} {result.plan.cut.end_layer} on {result.measured.data}"
    )
    if result.elsewhere:
        title += f", measured on {result.elsewhere.data}, too"
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        leftMargin=MARGIN - PADDING,
        rightMargin=MARGIN - PADDING,
        topMargin=18 * mm,
        bottomMargin=18 * mm,
        title=f"Stitching {title}",
        author="robust-stitching",
    )
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
        story = [
            Paragraph(escape(f"Stitching {title}"), TITLE),
            Paragraph(escape(_byline(record)), BYLINE),
            Paragraph(escape(summary(record) + robust_summary(record)), TEXT),
            *[Paragraph(f"<b>Note.</b> {escape(note)}", TEXT) for note in _notes(record)],
            Paragraph("What was stitched", SECTION),
            _facts(_donor_rows(record), (0.10, 0.45, 0.45)),
            Spacer(1, 4),
            *_results(record),
            *_figures(figures_of(result, record, Path(folder))),
            Paragraph("How it was made", SECTION),
            Paragraph(escape(record["command"]), CODE),
            _facts(_settings(record), (0.25, 0.75)),
        ]
        document.build(story, onFirstPage=_footer, onLaterPages=_footer)


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
    matched = record["direct_matching"]
    return (
        f"{told}. Direct matching, which sees no labels, gives {matched['accuracy']:.2%}"
        f"{_recalibrated(record)}. At the cut, linear CKA with the end network's own activations "
        f"is {_number(record['front'], 'cka_to_end')} for the front's, "
        f"{_number(stitched, 'cka_to_end')} behind the trained map and "
        f"{_number(matched, 'cka_to_end')} behind direct matching."
    )


def _recalibrated(record: Mapping[str, Any]) -> str:
    """A trained stitch has moved the statistics of batch norms: so may direct matching."""
    again = record["direct_matching_recalibrated"]
    if again is None:
        return ""
    return f", and {again['accuracy']:.2%} with the statistics of batch norms estimated again"


def robust_summary(record: Mapping[str, Any]) -> str:
    """How the networks do under attack, in a sentence; empty where none was attacked."""
    if record["attacks"] is None:
        return ""
    told = [
        f"{record[name]['robust'][WORST]:.1%} ({name.replace('_', ' ')})"
        for name in table.NETWORKS
        if (record[name] or {}).get("robust")
    ]
    return (
        f" Under attack within {table.NORM_SIGNS[record['attacks']['norm']]} radius "
        f"{record['attacks']['epsilon']:.4g}, per-image worst case over "
        f"{record['attacks']['n_images']:,} images, accuracy is {', '.join(told)}."
    )


def _number(values: Mapping[str, Any], key: str) -> str:
    return table.shown(values, key, ".3f")


def _notes(record: Mapping[str, Any]) -> list[str]:
    return record["notes"] + (record["attacks"] or {}).get("warnings", [])


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
        ["file", front["path"], end["path"]],
        ["trained on", front["dataset"], end["dataset"]],
        [
            "layer",
            f"{params['front_layer']}, activation {shape('in_shape')}",
            f"{params['end_layer']}, activation {shape('out_shape')}",
        ],
    ]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without levels: "adversary.epsilon" for what is inside."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": deep for inner, deep in plain(value).items()}
        else:
            found[key] = value
    return found


def _settings(record: Mapping[str, Any]) -> list[list[str]]:
    settings = ", ".join(
        key if value is True else f"{key} {value}"
        for key, value in plain(record["params"]).items()
        if value is not None and value is not False
    )
    versions = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    code = f"commit {record['commit']}" if record["commit"] else "not under git"
    return [
        ["setting", "value"],
        ["parameters of the map", f"{record['transformation']['parameters']:,}"],
        ["settings", settings],
        ["versions", f"{versions}, {code}"],
        ["another seed varies", "; ".join(record["seed_varies"])],
        ["time taken", f"{record['seconds']:.0f} s"],
    ]


def _results(record: Mapping[str, Any]) -> list[Flowable]:
    """The tables of the run's dataset, then those of the other one, where there is one."""
    tables = _tables(record, record["estimators"])
    if record["elsewhere"]:
        elsewhere = record["elsewhere"]
        tables += [
            (f"{heading}: {elsewhere['data']['name']}", rows, caption)
            for heading, rows, caption in _tables(elsewhere, record["estimators"])
        ]
    return [
        _numbers(heading, rows, f"<b>Table {number}.</b> {escape(caption)}")
        for number, (heading, rows, caption) in enumerate(tables, start=1)
    ]


def _tables(
    record: Mapping[str, Any], estimators: Mapping[str, str]
) -> list[tuple[str, list[list[str]], str]]:
    """Heading, rows and caption of what was measured on one dataset."""
    images = f"{record['data']['n_images']:,} images of {record['data']['name']}"
    tables = [
        (
            "Accuracy and answers",
            table.rows(record, (*table.ACCURACY[:3], *table.ANSWERS)),
            "Intervals are Wilson’s, over the images; the spread over trainings is not in them. "
            "Loss is the cross-entropy with the labels, CE to end that with the end network’s "
            "softmax. rr, rw, wr, ww: share of images that the network (first letter) and the end "
            f"network (second) get right or wrong. {images}.",
        ),
        ("Controls", table.control_rows(record), f"{meaning(record)} {images}."),
    ]
    if record["l2"] is not None or record["cka"] is not None:
        caption = f"{table.similarity_caption(estimators)} “–” where shapes differ. {images}."
        similarity = table.rows(record, table.SIMILARITY)
        tables.append(("Similarity to the end network", similarity, caption))
    if record["attacks"] is not None:
        caption = table.attack_caption(record)
        tables.append(("Accuracy under attack", table.robust_rows(record), caption))
        caption = table.transfer_caption(record)
        heading, *rows = table.transfer_rows(record)
        narrow = [text.replace(" ", "\n") for text in heading[1:]]
        tables.append(("Transfer of attacks", [[heading[0], *narrow], *rows], caption))
    return tables


def _numbers(heading: str, rows: list[list[str]], caption: str) -> Flowable:
    """A table of numbers under its heading, all on one page."""
    lengths = [
        2 + max(len(line) for text in column for line in text.split("\n"))
        for column in zip(*rows, strict=True)
    ]
    size = 9.5 if sum(lengths) < WIDE else 8.3
    style = [
        *_rules(len(rows)),
        ("FONT", (0, 0), (-1, -1), SERIF, size),
        ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
        ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
    ]
    widths = [length / sum(lengths) * WIDTH * inch for length in lengths]
    parts = [
        Paragraph(heading, SECTION),
        Table(rows, colWidths=widths, style=TableStyle(style), spaceAfter=4),
        Paragraph(caption, CAPTION),
    ]
    return KeepTogether(parts)


def _figures(figures: Sequence[tuple[Path, str]]) -> list[Flowable]:
    story: list[Flowable] = []
    for number, (path, caption) in enumerate(figures, start=1):
        with Picture.open(path) as picture:
            width, height = picture.size
        story.append(
            KeepTogether(
                [
                    Spacer(1, 4),
                    Image(str(path), WIDTH * inch, WIDTH * inch * height / width),
                    Paragraph(f"<b>Figure {number}.</b> {escape(caption)}", CAPTION),
                ]
            )
        )
    return story


def _rules(rows: int) -> list[tuple]:
    """A paper's table: a rule above, below the heading, and at the end."""
    thick, thin = 0.8, 0.4
    return [
        ("LINEABOVE", (0, 0), (-1, 0), thick, colors.black),
        ("LINEBELOW", (0, 0), (-1, 0), thin, colors.black),
        ("LINEBELOW", (0, rows - 1), (-1, rows - 1), thick, colors.black),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
        ("LEFTPADDING", (0, 0), (0, -1), 2),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ]


def _facts(rows: list[list[str]], shares: Sequence[float]) -> Table:
    cell = ParagraphStyle("cell", TEXT, fontSize=9, leading=11, spaceAfter=0, splitLongWords=True)
    cells = [[Paragraph(escape(text), cell) for text in row] for row in rows]
    widths = [share * WIDTH * inch for share in shares]
    return Table(cells, colWidths=widths, style=TableStyle(_rules(len(rows))), spaceAfter=4)


def _footer(canvas: Any, document: SimpleDocTemplate) -> None:
    canvas.setFont(SERIF, 8)
    canvas.setFillColor(colors.HexColor("#666666"))
    canvas.drawString(MARGIN, 10 * mm, "robust-stitching")
    canvas.drawRightString(A4[0] - MARGIN, 10 * mm, str(document.page))


@cache
def _register_fonts() -> None:
    """The fonts that come with matplotlib: they have the signs that reportlab's own lack."""
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    for name in (SERIF, BOLD, ITALIC, MONO):
        pdfmetrics.registerFont(TTFont(name, folder / f"{name}.ttf"))
    pdfmetrics.registerFontFamily(SERIF, SERIF, BOLD, ITALIC, BOLD)
