"""What pixels a network takes: known ranges, and how people write them."""

import re
from typing import Any

InputRange = tuple[float, float]
INPUT_RANGES: tuple[InputRange, ...] = ((0, 1), (-1, 1), (0, 255))
BIT_RANGE: InputRange = (-1, 1)  # of every BiT network inside: google-research/big_transfer, `bit_tf2/train.py`


def parse_input_range(received: Any) -> Any:
    """ "0,1", "-1,1" or "0,255", or the two numbers; None stays None. Raises ValueError for anything else.

    >>> parse_input_range("-1,1"), parse_input_range([0, 255])
    ((-1, 1), (0, 255))
    """
    if received is None:
        return None
    numbers = received if isinstance(received, list | tuple) else ()
    text = received if isinstance(received, str) else ",".join(map(_number, numbers))
    for known in INPUT_RANGES:
        if re.sub(r"[\s\[\]()]", "", text) == flag_value(known):
            return known
    raise ValueError("must be 0,1 or -1,1 or 0,255")


def shown_range(input_range: InputRange) -> str:
    """
    >>> shown_range((0, 255))
    '[0, 255]'
    """
    return f"[{input_range[0]:g}, {input_range[1]:g}]"


def flag_value(input_range: InputRange) -> str:
    """
    >>> flag_value((-1.0, 1.0))
    '-1,1'
    """
    return f"{input_range[0]:g},{input_range[1]:g}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else "?"
