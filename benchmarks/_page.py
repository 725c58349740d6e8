"""docs/speed.md and the README's table: what the claims promise and what was measured last."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from _claims import OWN, PEERS, PHOTOGRAPHS, Claim

README_HEAD = "| claim | promised | measured | command |"
EARLIER = "earlier"
"""Said of what was measured before anybody noted the commit and the machine."""

INTRODUCTION = """\
# Speed and precision

`python benchmarks/all.py` measures what stands here, writes this page and the README's table, and
ends with status 1 where a promise is no longer kept. `--quick` runs what takes two minutes or less,
`--only NAME…` some, `--list` names all with their times; a claim that was not run keeps its row. A
promise has a margin for noise (`benchmarks/_claims.py`): ratios are medians over rounds in which
both sides take turns, and still move by some percent on a busy machine. "Over" is a ratio of times,
ours first: 0.5 is half of the other's time.
"""
BESIDE = """\
## Beside other packages

Both sides get the same weights, images and batches, in turns within one run. Distances are to a
value that each script computes by itself in float64; memory is what a process of its own takes
beyond what it held before. `pip install --no-deps -r benchmarks/peers/requirements.txt` installs
the peers, in the versions that are measured. Nothing else needs them.
"""
WHEN = f"""\
"When": machine and versions by letter, date, commit (with a + where its code was changed), and the
load, which is how many processes the machine was busy with before; "{EARLIER}" where nobody noted
them. {PHOTOGRAPHS} is a folder with the images of CIFAR-10 as JPEG files, in train/ and test/;
`all.py --photographs` names it.
"""


@dataclass(frozen=True)
class Result:
    """What a claim's script told, when and where.

    Attributes
    ----------
    values : name of a quantity to its number.
    minutes : that it took.
    date, commit : when, and of which commit; None where nobody noted them.
    machine, versions : in words.
    peers : distribution to version, of those that the claim needs.
    load : processes that the machine was running before, on average over a minute.
    note : what else a reader has to know of the measurement.
    """

    values: Mapping[str, float]
    minutes: float | None = None
    date: str | None = None
    commit: str | None = None
    machine: str = ""
    versions: str = ""
    peers: Mapping[str, str] | None = None
    load: float | None = None
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON holds it, without what is not known."""
        return {n: value for n, value in asdict(self).items() if value not in (None, "", {})}


def page(results: Mapping[str, Result], own: Sequence[Claim] = OWN, peers=PEERS) -> str:
    """docs/speed.md."""
    setups = list(dict.fromkeys(_setup(r) for r in results.values() if r.date))
    letters = {setup: chr(ord("A") + number) for number, setup in enumerate(setups)}
    parts = [INTRODUCTION, _table(own, results, letters)]
    if peers:
        parts += [BESIDE, _table(peers, results, letters)]
    parts.append(WHEN)
    if letters:
        parts.append("\n".join(f"- {letter}: {setup}" for setup, letter in letters.items()) + "\n")
    return "\n".join(parts)


def readme(text: str, results: Mapping[str, Result], claims: Sequence[Claim]) -> str:
    """`text` with its table of claims as the results have it.

    Raises
    ------
    ValueError : where it has none.
    """
    told = [claim for claim in claims if claim.in_readme]
    rows = [
        _row(in_readme(c.words), _promised(c), _measured(c, results.get(c.name)), f"`{c.command}`")
        for c in told
    ]
    table = "\n".join([README_HEAD, "| --- | --- | --- | --- |", *rows]) + "\n"
    found = re.compile(re.escape(README_HEAD) + r"\n(\|.*\n)+")
    if not found.search(text):
        raise ValueError(f"the README has no table that begins with {README_HEAD}")
    return found.sub(lambda _: table, text)


def in_readme(words: str) -> str:
    """Links between pages of docs, as the README has them."""
    return re.sub(r"\]\((\w+\.md)", r"](docs/\1", words)


def _table(
    claims: Sequence[Claim], results: Mapping[str, Result], letters: Mapping[str, str]
) -> str:
    rows = ["| claim | promised | measured | takes | when | command |"]
    rows.append("| --- | --- | --- | ---: | --- | --- |")
    for claim in claims:
        result = results.get(claim.name)
        cells = (
            claim.words,
            _promised(claim),
            _measured(claim, result),
            _takes(claim, result),
            _when(result, letters),
            f"`{claim.command}`",
        )
        rows.append(_row(*cells))
    return "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _promised(claim: Claim) -> str:
    promises = dict.fromkeys(quantity.promise for quantity in claim.quantities)
    return ", ".join(filter(None, promises))


def _measured(claim: Claim, result: Result | None) -> str:
    if result is None:
        return "not yet"
    there = [(q, result.values[q.name]) for q in claim.quantities if q.name in result.values]
    told = ", ".join(quantity.told(value) for quantity, value in there)
    if not all(quantity.met(value) for quantity, value in there):
        return f"**{told}: not kept**"
    strictly = all(quantity.strictly(value) for quantity, value in there)
    return told if strictly else f"{told} (kept but for noise)"


def _takes(claim: Claim, result: Result | None) -> str:
    minutes = (result and result.minutes) or claim.minutes
    return f"{60 * minutes:.0f} s" if minutes < 1.5 else f"{minutes:.0f} min"


def _when(result: Result | None, letters: Mapping[str, str]) -> str:
    if result is None:
        return ""
    note = [result.note] if result.note else []
    if not result.date:
        return ", ".join([EARLIER, *note])
    beside = [f"{name} {version}" for name, version in (result.peers or {}).items()]
    load = [] if result.load is None else [f"load {result.load:.1f}"]
    where = letters[_setup(result)]
    return ", ".join([where, result.date, f"`{result.commit}`", *load, *beside, *note])


def _setup(result: Result) -> str:
    return f"{result.machine}; {result.versions}"
