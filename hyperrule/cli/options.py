"""Flags made from the fields of a recipe, their way back into one set of options, and files to be written.

Flags that say which classifier, shared by the commands that use one as it is.
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
    """One set of options: the recipe's, overridden by --set, overridden by flags.

    Steps, epochs and budget are one choice: whoever gives one overrides the others.
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
    """The file, if it can be there: what is decoded for an hour must not be lost to a typing mistake."""
    if name is None:
        return None
    file = Path(os.path.expanduser(name))
    if not file.parent.is_dir():
        raise RecipeError(f"{flag} {file} cannot be written: there is no folder {file.parent}.")
    if file.is_dir():
        raise RecipeError(f"{flag} {file} cannot be written: it is a folder. Name a file in it.")
    if file.exists() and not file.is_file():
        raise RecipeError(f"{flag} {file} cannot be written: it is not a regular file. Name one.")
    if not os.access(file.parent, os.W_OK):
        raise RecipeError(f"{flag} {file} cannot be written: no permission to write in {file.parent}.")
    return file


def _kind(field: FieldInfo, kind: Any) -> str:
    """An example of the value where the field has one, else its type."""
    return str(field.examples[0]) if field.examples else getattr(kind, "__name__", "text").upper()


def _choices(annotation: Any) -> tuple[str, ...]:
    """The strings of a Literal, alone or in a union with None."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((get_args(part) for part in get_args(annotation) if get_origin(part) is Literal), ())


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
