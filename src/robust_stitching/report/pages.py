"""Pages that read like a paper's, set by reportlab: their styles, tables and figures."""

import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
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
ACROSS = 2  # heat maps side by side, where their names leave them room
PADDING = 6  # points that reportlab keeps free inside a page frame
EDGE = 18 * mm  # above the text, and below
HEIGHT = A4[1] - 2 * EDGE - 2 * PADDING
TEXT = ParagraphStyle("text", fontName=SERIF, fontSize=10, leading=13, spaceAfter=4)
TITLE = ParagraphStyle("title", TEXT, fontName=BOLD, fontSize=17, leading=21, spaceAfter=2)
BYLINE = ParagraphStyle("byline", TEXT, fontName=ITALIC, textColor=colors.HexColor("#555555"))
SECTION = ParagraphStyle(
    "section",
    TEXT,
    fontName=BOLD,
    fontSize=11.5,
    leading=15,
    spaceBefore=9,
    spaceAfter=3,
    keepWithNext=1,
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


class Float(NamedTuple):
    """What stands on one page with its caption, and need not stand where it is told.

    Attributes
    ----------
    label : "Figure" or "Table", which are numbered as they come; "" for one without a caption.
    """

    label: str
    parts: Sequence[Flowable]
    caption: str = ""

    def numbered(self, number: int) -> list[Flowable]:
        """The parts, and the caption with this number."""
        if not self.label:
            return list(self.parts)
        return [*self.parts, paragraph(self.caption, CAPTION, f"{self.label} {number}")]


def write(path: Path, title: str, story: Sequence[Flowable | Float], made: str) -> None:
    """Set pages; the same arguments give the same bytes.

    Parameters
    ----------
    story : text, which goes on over pages, and floats; a float that does not fit on what is left of
        a page lets those behind it, up to the next text, go first.
    made : date and time for the file's properties, from the year to the second.
    """
    date = "".join(filter(str.isdecimal, made))
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        leftMargin=MARGIN - PADDING,
        rightMargin=MARGIN - PADDING,
        topMargin=EDGE,
        bottomMargin=EDGE,
        title=title,
        author="robust-stitching",
        invariant=1,
    )

    def first_page(canvas: Any, document: SimpleDocTemplate) -> None:
        canvas.setDateFormatter(lambda *_: f"D:{date}")
        _footer(canvas, document)

    document.build(list(_placed(story)), onFirstPage=first_page, onLaterPages=_footer)


def _placed(story: Sequence[Flowable | Float]) -> Iterator[Flowable]:
    """All of a story in the order in which it fills pages."""
    waiting, left, numbers = list(story), HEIGHT, Counter()
    while waiting:
        if isinstance(waiting[0], Flowable):
            text = [waiting.pop(0)]
            while text[-1].getKeepWithNext() and waiting:
                text.append(waiting.pop(0))
            height = _height(text)
            apart = len(text) == 1 or height > HEIGHT  # may go on over pages
            left = (left - height) % HEIGHT if apart or height <= left else HEIGHT - height
            yield from text
            continue
        floats = list(itertools.takewhile(lambda one: isinstance(one, Float), waiting))
        heights = [_height(one.numbered(0)) for one in floats]
        fitting = [place for place, height in enumerate(heights) if height <= left]
        place = fitting[0] if fitting else 0
        left = (left if fitting else HEIGHT) - heights[place]
        chosen = waiting.pop(place)
        numbers[chosen.label] += 1
        yield KeepTogether(chosen.numbered(numbers[chosen.label]))


def _height(parts: Sequence[Flowable]) -> float:
    """Of what stands below each other, in points, with the space around each."""
    return sum(
        part.wrap(WIDTH * inch, HEIGHT)[1] + part.getSpaceBefore() + part.getSpaceAfter()
        for part in parts
    )


def paragraph(text: str, style: ParagraphStyle = TEXT, label: str = "") -> Paragraph:
    """Plain text, behind a label in bold where there is one."""
    _register_fonts()
    return Paragraph(f"<b>{escape(label)}.</b> {escape(text)}" if label else escape(text), style)


def facts(rows: Sequence[Sequence[str]], shares: Sequence[float]) -> Table:
    """A table of words below its heading, whose columns take these shares of the width."""
    cells = [[paragraph(text, CELL) for text in row] for row in rows]
    widths = [share * WIDTH * inch for share in shares]
    return Table(cells, colWidths=widths, style=TableStyle(_rules(len(rows))), spaceAfter=4)


def numbers(heading: str, rows: Sequence[Sequence[str]], caption: str) -> Float:
    """A table of numbers under its heading; without rows what the caption says of them."""
    if not rows:
        return Float("", [paragraph(heading, SECTION), paragraph(caption)])
    lengths = [
        max(9, 2 + max(len(line) for text in column for line in text.split("\n")))
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
    table = Table(rows, colWidths=widths, style=TableStyle(style), spaceAfter=4)
    return Float("Table", [paragraph(heading, SECTION), table], caption)


def picture(figure: Figure, caption: str) -> Float:
    """A figure as wide as the text, or as it is drawn where that is less."""
    width = min(WIDTH, figure.get_size_inches()[0])
    return Float("Figure", [Spacer(1, 4), image(figure, width)], caption)


def side_by_side(figures: Sequence[Figure], caption: str) -> Float:
    """Figures next to each other, each no larger than it is drawn, up to `ACROSS`."""
    pictures = [whole_image(figure, WIDTH / ACROSS - 0.05) for figure in figures]
    row = Table([pictures], colWidths=[WIDTH / ACROSS * inch] * len(pictures), hAlign="LEFT")
    return Float("Figure", [row], caption)


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
