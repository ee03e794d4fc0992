"""How to use what a run left: texts that run as they stand, beside an image.jpg."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from hyperrule.run_folder import RunFolder

PYTHON = """\
import tensorflow as tf

classify = tf.saved_model.load({saved_model!r}).signatures["serving_default"]
answer = classify(image_bytes=tf.constant([open("image.jpg", "rb").read()]))
print(answer["label"][0].numpy().decode(), float(answer["score"][0]))
"""


@dataclass(frozen=True)
class Snippet:
    """`id` is that of its element on the page."""

    id: str
    title: str
    language: str
    text: str


def snippets(run: RunFolder, classifier: bool = True) -> Iterator[Snippet]:
    """Paths are those by which the run was named. Without a `classifier`, features are all there is."""
    path = shlex.quote(str(run.path))
    if classifier:
        python = PYTHON.format(saved_model=str(run.saved_model))
        yield Snippet("use-tensorflow", "In Python, with TensorFlow alone", "python", python)
        yield Snippet("use-predict", "On the command line", "sh", f"hyperrule predict {path} image.jpg\n")
    further = f"hyperrule finetune --backbone {path} --dataset my_images\n"
    yield Snippet("use-finetune", "As the backbone for images of your own", "sh", further)
