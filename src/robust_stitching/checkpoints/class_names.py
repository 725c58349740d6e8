"""Which class of a dataset is which answer of a network: by name, and by number where names fail.

Numbers mean nothing by themselves: a folder that is renamed sorts elsewhere, and every class behind
it then has another number.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MOST_TOLD = 3


@dataclass(frozen=True)
class Matching:
    """The classes of a dataset as a network answers them.

    Attributes
    ----------
    order : for each answer the number of the class that it stands for.
    renamed : (class, answer) for those that are not called the same.
    """

    order: tuple[int, ...]
    renamed: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        told = ", ".join(f"{theirs} for {own}" for theirs, own in self.renamed[:MOST_TOLD])
        more = len(self.renamed) - MOST_TOLD
        return f"{told} and {more} more" if more > 0 else told


def matched(answers: Sequence[str], classes: Sequence[str]) -> Matching:
    """Match equally many classes to the answers of a network.

    A class stands for the answer of its name. Of those that are left over, one stands for the
    answer that differs in capitals, blanks, hyphens and underscores only, and the rest for the
    answers that are left, in their order; names that are all whole numbers have the order of those.
    Two different sets of whole numbers only count, one from 0 and the other from 1, say: they are
    matched in their order.
    """
    class_of: dict[int, int] = {}
    count = _are_numbers(answers) and _are_numbers(classes) and set(answers) != set(classes)
    for same in () if count else (str, _folded):
        own = _unique(answers, _left(answers, class_of.keys()), same)
        theirs = _unique(classes, _left(classes, class_of.values()), same)
        class_of |= {own[name]: theirs[name] for name in own.keys() & theirs.keys()}
    left = (_left(answers, class_of.keys()), _left(classes, class_of.values()))
    class_of |= dict(zip(*left, strict=True))
    order = tuple(class_of[i] for i in range(len(answers)))
    pairs = [(classes[number], answer) for answer, number in zip(answers, order, strict=True)]
    return Matching(order, tuple((theirs, own) for theirs, own in pairs if theirs != own))


def _folded(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in " -_")


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _left(names: Sequence[str], taken: Iterable[int]) -> list[int]:
    """The numbers of the names that are not taken, in their order."""
    taken = set(taken)
    left = [i for i in range(len(names)) if i not in taken]
    numbers = _are_numbers([names[i] for i in left])
    return sorted(left, key=lambda i: int(names[i])) if numbers else left


def _unique(
    names: Sequence[str], left: Sequence[int], same: Callable[[str], str]
) -> dict[str, int]:
    """What those that are left are called to their numbers, but for names that several share."""
    counts = Counter(same(names[i]) for i in left)
    return {same(names[i]): i for i in left if counts[same(names[i])] == 1}
