"""Words that many messages share."""

import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

MARKUP = re.compile(r"[\\`*_\[\]<>|~&#$]")
NAMED_AT_MOST = 5
MIB = 2**20


def listed(items: Iterable[str]) -> str:
    """At most five items, and the number of the others.

    >>> listed("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    everything = list(items)
    more = f" and {len(everything) - NAMED_AT_MOST} more" if len(everything) > NAMED_AT_MOST else ""
    return ", ".join(everything[:NAMED_AT_MOST]) + more


def printable(text: str | Path) -> str:
    """Names come from strangers: bytes that are not UTF-8, and what would steer a terminal or turn text round, as
    escapes.

    >>> print(printable("a\\x1b[31m\\udcff.jpg"))
    a\\x1b[31m\\xff.jpg
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_escaped, text))


def plain(text: str) -> str:
    """Any text as Markdown that shows it as it is.

    >>> print(plain("*a*  <b>"))
    \\*a\\* \\<b\\>
    """
    return MARKUP.sub(r"\\\g<0>", printable(" ".join(text.split())))


def number(count: int, noun: str) -> str:
    """
    >>> number(1, "image"), number(60_000, "image"), number(2, "class")
    ('1 image', '60,000 images', '2 classes')
    """
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def one_line(error: BaseException, most: int = 200) -> str:
    """What an error says, its lines in one, cut after `most` characters.

    >>> one_line(ValueError("no number:\\n  x"))
    'no number: x'
    """
    return " ".join(str(error).split())[:most]


def first_line(error: BaseException) -> str:
    """What an error says first: TensorFlow's go on with where in the graph they come from.

    >>> first_line(ValueError("no memory\\n at ...")), first_line(KeyboardInterrupt())
    ('no memory', 'KeyboardInterrupt')
    """
    text = str(getattr(error, "message", error)).strip()  # str() of an OpError begins elsewhere
    return text.splitlines()[0] if text else type(error).__name__


def did_you_mean(received: str, known: Iterable[str]) -> str:
    """A closing question with the closest known name, or nothing when none is close.

    >>> did_you_mean("budgit", ["batch", "budget"])
    " Did you mean 'budget'?"
    """
    close = get_close_matches(received.lower(), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def resume_command(run: Path) -> str:
    """What to type to go on with a run, ready to be pasted."""
    return f"hyperrule finetune --resume {shlex.quote(str(run))}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(45), duration(300), duration(5400), duration(90)
    ('45 s', '5 min', '1.5 h', '1.5 min')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def size(length: int | None) -> str:
    """Bytes as people say them.

    >>> size(3_699_376_128), size(None)
    ('3,528.0 MiB', 'size not told')
    """
    return "size not told" if length is None else f"{length / MIB:,.1f} MiB"


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that it cannot decode
        return f"\\x{ord(character) - 0xDC00:x}"
    return character.encode("unicode_escape").decode()
