"""What a sweep shows, drawn from the files of its units alone: a table, figures, pages."""

from pathlib import Path

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import replacing
from robust_stitching.basics.names import Names
from robust_stitching.plans.places import PLAN
from robust_stitching.report.drawing import save
from robust_stitching.report.sweep.figures import SHOWN, curves, heat_maps
from robust_stitching.report.sweep.pages import write_pages
from robust_stitching.report.sweep.pdf import write_pdf
from robust_stitching.report.sweep.read import results_in
from robust_stitching.report.sweep.table import ORDER, table_of

MAPS_ON_PAGES = 12
"""Heat maps in the PDF; all of them are files of their own."""


def write_files(sweep: Path) -> dict[str, Path]:
    """Write the table, the figures and the pages of a sweep into its folder; those that are there
    are replaced.

    Returns
    -------
    kind to path: "csv", "figures", a folder, "pdf", and "html", where there are grids.

    Raises
    ------
    UserError : where no unit is done yet, or a result cannot be read.
    """
    results, asked = results_in(sweep)
    if not results:
        raise UserError(f"{sweep} has no result yet; wait for the first, or run the sweep again.")
    table, text = table_of(results, asked), _text(sweep)
    paths = {"csv": sweep / "table.csv", "figures": sweep / "figures", "pdf": sweep / "sweep.pdf"}
    with replacing(paths["csv"]) as temporary:
        table.drop(columns=list(ORDER)).to_csv(temporary, index=False)
    lines, maps, names = [], [], Names()
    for network, quantity, title in SHOWN:
        figure = curves(table, network, quantity, title)
        if figure is not None:
            save(figure, paths["figures"] / names.of("curves", network, quantity))
            lines.append(
                (
                    f"{title[0].upper()}{title[1:]} along the diagonal; bands: from seed to seed.",
                    figure,
                )
            )
        for name, figure in heat_maps(table, network, quantity, title):
            save(figure, paths["figures"] / names.of("map", network, quantity, name))
            maps.append((_caption(title, name, "mean over seeds"), figure))
    there, shown = (len(results), len(asked)), maps[:MAPS_ON_PAGES]
    write_pdf(paths["pdf"], sweep.name, text, table, lines, shown, there)
    if any(result.is_grid for result in results):
        paths["html"] = write_pages(results, sweep)
    return {kind: path for kind, path in paths.items() if path.exists()}


def _text(sweep: Path) -> str:
    try:
        return (sweep / PLAN).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{sweep / PLAN}, the plan of that sweep, cannot be read; run the sweep again, which "
            "puts it there."
        ) from error


def _caption(title: str, what: str, how: str) -> str:
    return f"{title[0].upper()}{title[1:]}, {what}; {how}."
