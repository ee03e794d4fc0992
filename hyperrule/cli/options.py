"""Flags that several commands share: those of a recipe's fields and those that describe a classifier.

`collect` merges the flags of a recipe into one set of options; `writable` checks the name of an output file.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from hyperrule.data.open import DATA_OPTIONS
from hyperrule.errors import RecipeError
from hyperrule.recipe import LENGTHS, Recipe, TrainingRecipe, load_recipe, parse_assignment

F = TypeVar("F", bound=Callable[..., Any])


def options_of(kind: type[TrainingRecipe]) -> Callable[[F], F]:
    """Add a flag for every field of a kind of recipe, `--recipe` and `--set`. Values are checked by the recipe."""

    def add(function: F) -> F:
        function = click.option(
            "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set any option of a recipe."
        )(function)
        function = click.option("--recipe", metavar="FILE", help="Options from a YAML file or a shipped recipe.")(
            function
        )
        return _flags(kind.fields(), function)

    return add


def data_flags(command: str) -> Callable[[F], F]:
    """Add the flags that say which images of a data set, and how a command that does not train sees them."""
    return lambda function: _flags({name: Recipe.model_fields[name] for name in DATA_OPTIONS[command]}, function)


def _flags(fields: Mapping[str, FieldInfo], function: F) -> F:
    for name, field in reversed(list(fields.items())):
        flag = f"--{name.replace('_', '-')}"
        kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not NoneType]
        shown = f"{field.description} [{field.default}]" if isinstance(field.default, str) else field.description
        if kinds == [bool]:
            opposite = field.examples[0] if field.examples else f"no-{flag[2:]}"
            flag = flag if field.default is False else f"{flag}/--{opposite}"
            decorate = click.option(flag, name, is_flag=True, default=None, help=shown)
        else:
            choices = _choices(field.annotation)
            metavar = "|".join(choices) if choices else _kind(field, kinds[0])
            decorate = click.option(
                flag, name, metavar=metavar, help=shown, multiple=field.annotation == tuple[str, ...]
            )
        function = decorate(function)
    return function


def collect(recipe: str | None, assignments: tuple[str, ...], flags: dict[str, Any]) -> dict[str, Any]:
    """Return one set of options: the recipe's, overridden by --set, overridden by flags.

    Steps, epochs and budget exclude each other: setting one removes the others of an earlier layer.
    """
    options: dict[str, Any] = {}
    layers = (
        load_recipe(recipe) if recipe is not None else {},
        dict(map(parse_assignment, assignments)),
        {name: value for name, value in flags.items() if value not in (None, ())},
    )
    for layer in layers:
        if layer.keys() & set(LENGTHS):
            options = {name: value for name, value in options.items() if name not in LENGTHS}
        options.update(layer)
    return options


def writable(flag: str, name: str | None) -> Path | None:
    """Return the file `name`, None for None. Raises RecipeError if it cannot be written.

    Checked before the work starts: an hour of decoding must not be lost to a mistyped path.
    """
    if name is None:
        return None
    file = Path(os.path.expanduser(name))
    if not file.parent.is_dir():
        raise RecipeError(f"{flag} {file} cannot be written: there is no folder {file.parent}.")
    if file.is_dir():
        raise RecipeError(f"{flag} {file} cannot be written: it is a folder. Name a file in it.")
    if file.exists() and not file.is_file():
        raise RecipeError(f"{flag} {file} cannot be written: it is not a regular file.")
    if not os.access(file.parent, os.W_OK):
        raise RecipeError(f"{flag} {file} cannot be written: no permission to write in {file.parent}.")
    return file


def _kind(field: FieldInfo, kind: Any) -> str:
    """Return an example of the field's value if it has one, else its type."""
    return str(field.examples[0]) if field.examples else getattr(kind, "__name__", "text").upper()


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the strings of a Literal, alone or in a union with None; none for other types."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((get_args(part) for part in get_args(annotation) if get_origin(part) is Literal), ())


OPTIONS = (
    click.option("--size", type=int, metavar="PX", help="Side to which images are resized [as released or trained]."),
    click.option(
        "--activation", metavar="softmax|sigmoid", help="Function that turns logits into scores, if MODEL does not say."
    ),
    click.option(
        "--class-names",
        metavar="FILE",
        help="File with the classes in order, one a line; or imagenet-1k or imagenet-21k. If MODEL does not say.",
    ),
    click.option(
        "--input-range",
        metavar="LOW,HIGH",
        help="Range of pixels that a foreign SavedModel takes: 0,1 or -1,1 or 0,255. Not needed for a BiT.",
    ),
)


def classifier_options(function: F) -> F:
    """Add the argument MODEL and the flags. Values are checked by the Python API."""
    for option in reversed(OPTIONS):
        function = option(function)
    return click.argument("model")(function)
