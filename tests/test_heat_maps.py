"""A matrix as colours: which cell is where, what is written into it, and what is beyond."""

import ast
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robust_stitching.report import heat_maps
from robust_stitching.report.drawing import as_png
from robust_stitching.report.heat_maps import figure_of, heat_map

MATRIX = np.array([[0.0, 0.25, 0.5], [1.0, np.nan, 0.75]])
ROWS, COLUMNS = ["first", "second"], ["a", "b", "c"]


def drawn(matrix, rows=ROWS, columns=COLUMNS, low=0, high=1, **options):
    """The axes of a map and of its bar, and the colour of each cell, (rows, columns, RGB)."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    heat_map(axes, matrix, rows, columns, low, high, **options)
    for text in axes.texts:
        text.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    colours = np.zeros((*matrix.shape, 3), dtype=int)
    for i, j in np.ndindex(matrix.shape):
        x, y = axes.transData.transform((j, i))
        colours[i, j] = pixels[len(pixels) - 1 - round(y), round(x)]
    return axes, figure.axes[-1], colours


def test_rows_run_down_as_in_a_table_and_columns_to_the_right():
    axes, _, _ = drawn(MATRIX)
    (left, top), (right, bottom) = (axes.transData.transform(place) for place in ((0, 0), (2, 1)))
    assert right > left and top > bottom
    assert [label.get_text() for label in axes.get_xticklabels()] == COLUMNS
    assert [label.get_text() for label in axes.get_yticklabels()] == ROWS


def test_a_matrix_without_names_is_written_from_the_top():
    axes, _, colours = drawn(MATRIX, None, None)
    (_, first), (_, second) = (axes.transData.transform((0, row)) for row in (0, 1))
    assert first > second and not axes.texts
    assert (colours == drawn(MATRIX)[2]).all()


def test_brightness_follows_the_values_either_way():
    order = [(0, 0), (0, 1), (0, 2), (1, 2), (1, 0)]
    for colours, sign in (("magma", 1), ("magma_r", -1)):
        found = drawn(MATRIX, colours=colours)[2]
        brightness = [sign * int(found[place].sum()) for place in order]
        assert brightness == sorted(brightness) and len(set(brightness)) == len(order)
        assert found[1, 1].tolist() == [0xDD] * 3


def test_cells_with_room_hold_their_values():
    texts = {text.get_position(): text.get_text() for text in drawn(MATRIX)[0].texts}
    assert texts == {(j, i): "–" if v != v else f"{v:.2f}" for (i, j), v in np.ndenumerate(MATRIX)}
    fit, many = ([str(i) for i in range(count)] for count in (24, 30))
    assert len(drawn(np.zeros((24, 24)), fit, fit)[0].texts) == 24**2
    assert not drawn(np.zeros((30, 30)), many, many)[0].texts


@pytest.mark.parametrize(
    ("low", "high", "beyond"),
    [
        *((0, 1, "neither"), (0.1, 1, "min"), (0, 0.9, "max"), (0.1, 0.9, "both")),
        *((1e-9, 1 - 1e-9, "neither"), (None, 0.5, "max"), (None, None, "neither")),
    ],
)
def test_the_bar_says_whether_it_is_cut_off(low, high, beyond):
    figure = Figure()
    axes = figure.subplots()
    heat_map(axes, MATRIX, ROWS, COLUMNS, low, high)
    (image,) = axes.images
    assert image.colorbar.extend == beyond
    assert image.get_clim() == (0 if low is None else low, 1 if high is None else high)


@pytest.mark.parametrize("matrix", [np.full((2, 3), np.nan), np.full((2, 3), 7.0)])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (None, 1), (0, None), (None, None)])
def test_a_matrix_of_one_value_or_none_is_drawn(matrix, low, high):
    about = {"colours": "magma", "title": "t", "labels": ("x: y", "z"), "caption": "c " * 200}
    figure = figure_of(matrix, ROWS, COLUMNS, low, high, **about)
    assert as_png(figure).startswith(b"\x89PNG")
    ends = ("−∞" if low is None else "0"), ("∞" if high is None else "1")
    assert figure.axes[-1].get_ylabel().endswith(f"({ends[0]} to {ends[1]})")


def test_it_knows_nothing_of_what_is_drawn():
    tree = ast.parse(Path(heat_maps.__file__).read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.startswith("robust_stitching")] == [
        "robust_stitching.report.drawing"
    ]
