"""Writes the snippets that use a finished run, and the command that repeats it.

The snippets run unchanged beside an image.jpg.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from hyperrule.backbones.info import flag_value
from hyperrule.recipe import TrainingRecipe
from hyperrule.run_folder import RunFolder

PYTHON = """\
import tensorflow as tf

classify = tf.saved_model.load({saved_model!r}).signatures["serving_default"]
answer = classify(image_bytes=tf.constant([open("image.jpg", "rb").read()]))
print(answer["label"][0].numpy().decode(), float(answer["score"][0]))
"""


@dataclass(frozen=True)
class Snippet:
    """A text to paste, such as a command. `id` is that of its element on the page."""

    id: str
    title: str
    language: str
    text: str


def snippets(run: RunFolder, classifier: bool = True) -> Iterator[Snippet]:
    """Yield the snippets of a run, with its path as the user gave it; only that for features without a `classifier`."""
    path = shlex.quote(str(run.path))
    if classifier:
        python = PYTHON.format(saved_model=str(run.saved_model))
        yield Snippet("use-tensorflow", "In Python, with TensorFlow alone", "python", python)
        yield Snippet("use-predict", "On the command line", "sh", f"hyperrule predict {path} image.jpg\n")
    further = f"hyperrule finetune --backbone {path} --dataset my_images\n"
    yield Snippet("use-finetune", "As the backbone for your own images", "sh", further)


def command_of(recipe: TrainingRecipe) -> str:
    """Return the command line that makes the recipe: one option a line, in the order of `--help`, ready to paste."""
    fields = type(recipe).model_fields
    options = (shlex.join(_flag(name, asked, fields[name])) for name, asked in asked_of(recipe).items())
    return " \\\n    ".join([f"hyperrule {recipe.command}", *options])


def asked_of(recipe: TrainingRecipe) -> dict[str, Any]:
    """Return the options that differ from their defaults."""
    values = {name: getattr(recipe, name) for name in type(recipe).fields()}
    defaults = type(recipe).model_fields
    return {
        name: value for name, value in values.items() if defaults[name].is_required() or value != defaults[name].default
    }


def shown_value(name: str, value: Any) -> str:
    """Return an option's value as the command line takes it.

    >>> shown_value("memory_limit", 8 * 2**30), shown_value("budget", 300.0), shown_value("input_range", (0, 1))
    ('8192MiB', '300s', '0,1')
    """
    match name, value:
        case _, str():
            return value
        case "budget", _:
            return repr(value).removesuffix(".0") + "s"
        case "memory_limit", _:
            return repr(value / 2**20).removesuffix(".0") + "MiB"
        case "input_range" | "teacher_range", _:
            return flag_value(value)
        case _, tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


def _flag(name: str, value: Any, field: FieldInfo) -> Iterator[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        opposite = field.examples[0] if field.examples else f"no-{flag[2:]}"
        yield flag if value else f"--{opposite}"
    elif field.annotation == tuple[str, ...]:
        for each in value:
            yield from (flag, each)
    else:
        yield from (flag, shown_value(name, value))
