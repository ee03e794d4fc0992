"""Names of the outputs of released heads: the classes of ImageNet-1k and ImageNet-21k, in order.

Order and number of the classes are those of the released heads. Both lists are sorted by WordNet id: the 1,000 classes
of ILSVRC-2012, and for ImageNet-21k the 21,841 of the release of autumn 2011 and two more, n03931044 and n09859684
(google-research/big_transfer, issues 7 and 18). Names are the first lemma of WordNet 3.0; see NOTICE.md.
"""

import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from hyperrule.backbones.zoo import ClassNames
from hyperrule.errors import BackboneError


class ClassName(NamedTuple):
    """A class of a head: `wnid` is its WordNet id, empty for names from a file without ids.

    WordNet ids are unique, names are not: "crane" is a bird and a machine.
    """

    wnid: str
    name: str


@cache
def class_names(key: ClassNames) -> tuple[ClassName, ...]:
    """Return the classes of a released head, in the order of its outputs.

    >>> class_names("imagenet-1k")[0], len(class_names("imagenet-21k"))
    (ClassName(wnid='n01440764', name='tench'), 21843)
    """
    text = (resources.files(__name__) / f"{key}.txt").read_text(encoding="utf-8")
    return tuple(map(_parsed, text.splitlines()))


def read_class_names(path: Path, classes: int) -> tuple[ClassName, ...]:
    """Return the classes of a user's own head from a UTF-8 file, one a line: a name, or WordNet id, tab and name.

    Raises BackboneError for a file that cannot be read, an empty line, or a number of lines other than `classes`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BackboneError(f"class names {path} cannot be read: {reason}.") from None
    if len(lines) != classes:
        raise BackboneError(
            f"class names {path}: one line is expected for each of the head's {classes} classes. "
            f"Received: {len(lines)} lines."
        )
    named = tuple(map(_parsed, lines))
    if (empty := next((number for number, line in enumerate(named, 1) if not line.name), None)) is not None:
        raise BackboneError(f"class names {path}: line {empty} is empty; every class needs a name.")
    return named


def _parsed(line: str) -> ClassName:
    """Parse a line: a name, or WordNet id, tab and name.

    >>> _parsed("n02012849\\tcrane"), _parsed("construction crane ")
    (ClassName(wnid='n02012849', name='crane'), ClassName(wnid='', name='construction crane'))
    """
    wnid, tab, name = line.partition("\t")
    return ClassName(wnid, name.strip()) if tab and re.fullmatch(r"n\d{8}", wnid) else ClassName("", line.strip())
