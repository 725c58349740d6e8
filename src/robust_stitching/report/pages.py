"""Pages that read like a paper's, set by reportlab: their styles, tables and figures."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
from matplotlib.figure import Figure
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import inch, mm
from reportlab.lib.utils import ImageReader
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

from robust_stitching.report.drawing import DPI, WIDTH, as_png

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
CELL = ParagraphStyle("cell", TEXT, fontSize=9, leading=11, spaceAfter=0, splitLongWords=True)
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


def write(path: Path, title: str, story: Sequence[Flowable], made: str) -> None:
    """Set pages; the same arguments give the same bytes.

    Parameters
    ----------
    made : date and time for the file's properties, from the year to the second.
    """
    date = "".join(filter(str.isdecimal, made))
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        leftMargin=MARGIN - PADDING,
        rightMargin=MARGIN - PADDING,
        topMargin=18 * mm,
        bottomMargin=18 * mm,
        title=title,
        author="robust-stitching",
        invariant=1,
    )

    def first_page(canvas: Any, document: SimpleDocTemplate) -> None:
        canvas.setDateFormatter(lambda *_: f"D:{date}")
        _footer(canvas, document)

    document.build(list(story), onFirstPage=first_page, onLaterPages=_footer)


def paragraph(text: str, style: ParagraphStyle = TEXT, label: str = "") -> Paragraph:
    """Plain text, behind a label in bold where there is one."""
    _register_fonts()
    return Paragraph(f"<b>{escape(label)}.</b> {escape(text)}" if label else escape(text), style)


def facts(rows: Sequence[Sequence[str]], shares: Sequence[float]) -> Table:
    """A table of words below its heading, whose columns take these shares of the width."""
    cells = [[paragraph(text, CELL) for text in row] for row in rows]
    widths = [share * WIDTH * inch for share in shares]
    return Table(cells, colWidths=widths, style=TableStyle(_rules(len(rows))), spaceAfter=4)


def numbers(heading: str, rows: Sequence[Sequence[str]], number: int, caption: str) -> Flowable:
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
        paragraph(heading, SECTION),
        Table(rows, colWidths=widths, style=TableStyle(style), spaceAfter=4),
        paragraph(caption, CAPTION, f"Table {number}"),
    ]
    return KeepTogether(parts)


def picture(figure: Figure, number: int, caption: str) -> Flowable:
    """A figure as wide as the text, and its caption, on one page."""
    under = paragraph(caption, CAPTION, f"Figure {number}")
    return KeepTogether([Spacer(1, 4), image(figure, WIDTH), under])


def image(figure: Figure, width: float) -> Flowable:
    """A figure of that width, in inches."""
    own, height = figure.get_size_inches()
    return Image(io.BytesIO(as_png(figure)), width * inch, width * inch * height / own)


def whole_image(figure: Figure, width: float) -> Flowable:
    """All that a figure shows, as large as it is drawn; of that width, in inches, at most."""
    png = as_png(figure, whole=True)
    own, height = (pixels / DPI for pixels in ImageReader(io.BytesIO(png)).getSize())
    scale = min(1.0, width / own)
    return Image(io.BytesIO(png), own * scale * inch, height * scale * inch)


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
