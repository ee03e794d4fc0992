"""TensorBoard event files: the figures of metrics.jsonl once more, for who likes to watch them.

TensorFlow alone writes them; only to look at them takes the package tensorboard: `tensorboard --logdir RUN`.
"""

import shutil
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from hyperrule.run_folder import RunFolder

V1 = tf.compat.v1  # where the protocol buffers of event files are public
# What tf.summary.scalar says of its values; it itself would need the package.
SCALAR = V1.SummaryMetadata(
    plugin_data=V1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class=1,  # DATA_CLASS_SCALAR, tensorflow/core/framework/summary.proto
)
APART = ("kind", "step")


class Events:
    """Writes the run's `tensorboard/` anew from its metrics.jsonl, so that a resumed run shows every step once; what
    was before then carries the time of resuming."""

    def __init__(self, run: RunFolder) -> None:
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        self._writer = tf.summary.create_file_writer(str(run.tensorboard))
        self.add(*run.read_metrics())

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Show lines of metrics.jsonl: their figures as scalars named KIND/NAME, at their steps."""
        with self._writer.as_default():
            for line in lines:
                tf.summary.experimental.write_raw_pb(_summary(line).SerializeToString(), step=line["step"])
        self._writer.flush()


def _summary(line: Mapping[str, Any]) -> Any:
    """A figure that was not finite is left out."""
    figures = {name: value for name, value in line.items() if name not in APART and value is not None}
    return V1.Summary(value=[_scalar(f"{line['kind']}/{name}", value) for name, value in figures.items()])


def _scalar(tag: str, value: float) -> Any:
    return V1.Summary.Value(tag=tag, tensor=tf.make_tensor_proto(value, tf.float32), metadata=SCALAR)
