"""Any SavedModel with images in and features out, run as it is, in its own graph and types.

The interface is that of TF2 Hub's reusable SavedModels: `module(images, training)`, `variables`,
`trainable_variables`, `regularization_losses` (https://www.tensorflow.org/hub/reusable_saved_models).
SavedModels that have signatures only, and modules in the older TF1 format, extract features but
cannot be trained.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from hyperrule.backbones.backbone import Backbone
from hyperrule.errors import BackboneError
from hyperrule.wording import listed


class SavedModule:
    """A loaded SavedModel: how it is called, and what of it trains.

    Raises BackboneError if the folder holds no SavedModel that TensorFlow can load, or none that turns
    one batch of RGB images into one vector an image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = _load(folder)
        self._function, self._input, answer = self._image_function()
        self._training_argument = self._find_training_argument()
        self.side = self._input.shape[1]
        output = _only_tensor(folder, answer)
        if output.shape.rank != 2 or output.shape[1] is None or not output.dtype.is_floating:
            raise BackboneError(
                f"{folder} cannot be a backbone: it must return one vector of features an image, "
                f"[N, features]. Received: {output.dtype.name} {output.shape}."
            )
        self.features = int(output.shape[1])

    @property
    def trainable(self) -> bool:
        """Whether its variables can be trained."""
        return self._function is self.module and bool(self.trainable_variables)

    @property
    def trainable_variables(self) -> Sequence[tf.Variable]:
        return getattr(self.module, "trainable_variables", ())

    @cached_property
    def variables(self) -> Sequence[tf.Variable]:
        """All of them, in the module's order."""
        listed_ones = getattr(self.module, "variables", None)
        functions = getattr(self._function, "concrete_functions", [self._function])
        return list(listed_ones if listed_ones is not None else functions[0].variables)

    @property
    def regularization_losses(self) -> Sequence[Callable[[], tf.Tensor]]:
        return getattr(self.module, "regularization_losses", ())

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Images [N, H, W, 3] in the module's own range -> float32 [N, features]."""
        images = tf.cast(images, self._input.dtype)
        if self._function is not self.module:
            outputs = self._function(**{self._input.name: images})
        elif self._training_argument:
            outputs = self._function(images, training=training)
        else:
            outputs = self._function(images)
        return tf.cast(_only_tensor(self.folder, outputs), tf.float32)

    def _image_function(self) -> tuple[Any, tf.TensorSpec, Any]:
        """The function to call, its input, and what it returns, as specifications."""
        if callable(self.module):
            traced = [(self.module, call) for call in self.module.__call__.concrete_functions]
        else:
            traced = [(signature, signature) for signature in self.module.signatures.values()]
        candidates = [(function, _first_tensor(call), call.structured_outputs) for function, call in traced]
        for function, spec, outputs in candidates:
            if spec is None or spec.shape.rank != 4 or spec.shape[3] != 3 or not spec.dtype.is_floating:
                continue
            batch, height, width, _ = spec.shape
            if batch is None and height == width:
                return function, spec, outputs
        raise BackboneError(
            f"{self.folder} cannot be a backbone: it has no function of one batch of square float images "
            f"[N, H, W, 3]. Received functions of: {listed(str(spec) for _, spec, _ in candidates) or 'nothing'}."
        )

    def _find_training_argument(self) -> bool:
        """Whether the module tells training from inference."""
        if self._function is not self.module:
            return False
        calls = self.module.__call__.concrete_functions
        return any(
            isinstance(part, bool) for call in calls for part in tf.nest.flatten(call.structured_input_signature)
        )


class GraphModule(Backbone):
    """A SavedModule as a backbone: float32 inside, batch norm and the like follow `training`.

    Made within the scope of a multi-device strategy, it runs in that strategy's replicas only.
    """

    heeds_training = True

    def __init__(self, folder: Path) -> None:
        super().__init__(name="module")
        self.saved = SavedModule(folder)
        self.module = self.saved.module  # tracked, so that an export carries it
        self._in_replicas = tf.distribute.has_strategy()
        self.features = self.saved.features
        self.side = self.saved.side
        trained = {id(variable) for variable in self.saved.trainable_variables}
        self._arrays = {
            f"module/{index:04d}/{variable.name.split(':')[0]}": _adopted(variable, id(variable) in trained)
            for index, variable in enumerate(self.saved.variables)
        }
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.saved(images, training)

    def for_inference(self) -> "GraphModule":
        """Itself, or one outside of the replicas, to be filled by `fold`."""
        return GraphModule(self.saved.folder) if self._in_replicas else self

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        return self._arrays

    @property
    def regularizers(self) -> Sequence[Callable[[], tf.Tensor]]:
        return self.saved.regularization_losses


def _load(folder: Path) -> Any:
    try:
        try:
            return tf.saved_model.load(str(folder))
        except ValueError as error:
            if "tags" not in str(error):
                raise
            return tf.saved_model.load(str(folder), tags=[])  # TF1 modules: the graph without tags is for inference
    except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BackboneError(f"{folder} cannot be loaded as a SavedModel: {reason}.") from None


def _first_tensor(function: Any) -> tf.TensorSpec | None:
    """The input of a function that takes one tensor, besides Python values."""
    specs = [
        part
        for part in tf.nest.flatten(function.structured_input_signature)
        if isinstance(part, tf.TensorSpec) and part.dtype != tf.bool
    ]
    return specs[0] if len(specs) == 1 else None


def _only_tensor(folder: Path, outputs: Any) -> tf.Tensor:
    """The output, where there is one; a dictionary's "default", as hub signatures call it."""
    if isinstance(outputs, dict) and "default" in outputs:
        return outputs["default"]
    tensors = tf.nest.flatten(outputs)
    if len(tensors) != 1:
        names = sorted(outputs) if isinstance(outputs, dict) else [str(tensor.shape) for tensor in tensors]
        raise BackboneError(f"{folder} cannot be a backbone: it returns {len(tensors)} outputs: {listed(names)}.")
    return tensors[0]


def _adopted(variable: tf.Variable, trainable: bool) -> keras.Variable:
    """A Keras variable around one that exists; Keras allows no slashes in names."""
    name = variable.name.split(":")[0].replace("/", "_")
    adopted = keras.Variable(
        variable, trainable=trainable, dtype=variable.dtype.name, shape=variable.shape, autocast=False, name=name
    )
    assert adopted.value is variable
    return adopted
