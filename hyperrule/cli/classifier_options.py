"""Flags that say which classifier, shared by the commands that use one as it is."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option("--size", type=int, metavar="PX", help="Side to which images are resized [as released or trained]."),
    click.option("--activation", metavar="softmax|sigmoid", help="How scores are made, where it is not known."),
    click.option(
        "--class-names",
        metavar="FILE",
        help="The classes in order, one a line, or imagenet-1k or imagenet-21k, where they are not known.",
    ),
    click.option(
        "--input-range",
        metavar="LOW,HIGH",
        help="What pixels a foreign SavedModel takes: 0,1 or -1,1 or 0,255. BiT's is known.",
    ),
)


def classifier_options(function: F) -> F:
    """Add the argument MODEL and the flags. Values are checked by the Python API."""
    for option in reversed(OPTIONS):
        function = option(function)
    return click.argument("model")(function)
