"""The order of classes whose names come from a column of labels."""

import re
from collections import Counter
from collections.abc import Sequence

from hyperrule.data.listing import AS_TEXT

AS_NUMBERS = "names as numbers"
INTEGER = re.compile(r"[+-]?[0-9]{1,99}")  # Python refuses to take thousands of digits for a number


def ordered(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Distinct names in order, and what order that is: of numbers where all are integers that differ, else of text.

    >>> ordered(["10", "9"])
    (('9', '10'), 'names as numbers')
    >>> ordered(["10", "9", "cat"])
    (('10', '9', 'cat'), 'names as text')
    """
    if are_integers(names):
        return tuple(sorted(names, key=int)), AS_NUMBERS
    return tuple(sorted(names)), AS_TEXT


def are_integers(names: Sequence[str]) -> bool:
    return all(INTEGER.fullmatch(name) for name in names)


def spelled_twice(names: Sequence[str]) -> list[str]:
    """Integers among `names` of which another is equal in value, such as "7" and "07".

    >>> spelled_twice(["7", "8", "07"])
    ['07', '7']
    """
    if not are_integers(names):
        return []
    counts = Counter(map(int, names))
    return sorted(name for name in names if counts[int(name)] > 1)
