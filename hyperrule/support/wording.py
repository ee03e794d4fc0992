"""Formatting of names, numbers and errors in messages."""

import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

MARKUP = re.compile(r"[\\`*_\[\]<>|~&#$]")
NAMED_AT_MOST = 5
MIB = 2**20


def listed(items: Iterable[str]) -> str:
    """Join at most five items, and count the others.

    >>> listed("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    everything = list(items)
    more = f" and {len(everything) - NAMED_AT_MOST} more" if len(everything) > NAMED_AT_MOST else ""
    return ", ".join(everything[:NAMED_AT_MOST]) + more


def printable(text: str | Path) -> str:
    """Escape all that is unsafe to print: bytes that are not UTF-8, control characters, changes of text direction.

    >>> print(printable("a\\x1b[31m\\udcff.jpg"))
    a\\x1b[31m\\xff.jpg
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_escaped, text))


def escape_markdown(text: str) -> str:
    """Return Markdown that renders as `text`, with white space collapsed.

    >>> print(escape_markdown("*a*  <b>"))
    \\*a\\* \\<b\\>
    """
    return MARKUP.sub(r"\\\g<0>", printable(" ".join(text.split())))


def number(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> number(1, "image"), number(60_000, "image"), number(2, "class")
    ('1 image', '60,000 images', '2 classes')
    """
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def one_line(error: BaseException, most: int = 200) -> str:
    """Return the message of an error as one line of at most `most` characters.

    >>> one_line(ValueError("no number:\\n  x"))
    'no number: x'
    """
    return " ".join(str(error).split())[:most]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message. In TensorFlow's errors, the rest is where in the graph it occurred.

    >>> first_line(ValueError("no memory\\n at ...")), first_line(KeyboardInterrupt())
    ('no memory', 'KeyboardInterrupt')
    """
    text = str(getattr(error, "message", error)).strip()  # str() of an OpError starts with other text
    return text.splitlines()[0] if text else type(error).__name__


def did_you_mean(received: str, known: Iterable[str]) -> str:
    """Return " Did you mean NAME?" with the most similar known name, or "" if none is similar.

    >>> did_you_mean("budgit", ["batch", "budget"])
    " Did you mean 'budget'?"
    """
    close = get_close_matches(received.lower(), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def resume_command(run: Path) -> str:
    """Return the command that resumes a run, quoted for a shell."""
    return f"hyperrule finetune --resume {shlex.quote(str(run))}"


def duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours.

    >>> duration(45), duration(300), duration(5400), duration(90)
    ('45 s', '5 min', '1.5 h', '1.5 min')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def size(length: int | None) -> str:
    """Return a number of bytes in MiB.

    >>> size(3_699_376_128), size(None)
    ('3,528.0 MiB', 'size unknown')
    """
    return "size unknown" if length is None else f"{length / MIB:,.1f} MiB"


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that it cannot decode
        return f"\\x{ord(character) - 0xDC00:x}"
    return character.encode("unicode_escape").decode()
