"""Any SavedModel with images in and features out, run as it is, in its own graph and types.

The interface is that of TF2 Hub's reusable SavedModels: `module(images, training)`, `variables`,
`trainable_variables`, `regularization_losses` (https://www.tensorflow.org/hub/reusable_saved_models).
SavedModels that have signatures only, and modules in the older TF1 format, extract features but
cannot be trained.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from hyperrule.backbones.backbone import Backbone
from hyperrule.errors import BackboneError
from hyperrule.support.wording import listed


class _Call(NamedTuple):
    """A traced function of one tensor, and the Python values of its other arguments."""

    function: Any
    images: tf.TensorSpec
    values: dict[str, Any]

    @property
    def takes_pictures(self) -> bool:
        """Whether its tensor can be any number of square RGB images."""
        shape = self.images.shape
        return bool(
            shape.rank == 4
            and shape[0] is None
            and shape[1] == shape[2]
            and shape[3] == 3
            and self.images.dtype.is_floating
        )


class SavedModule:
    """A loaded SavedModel: how it is called, and what of it trains.

    `side` is the one image side it takes, None for any. `trainable_variables` is empty where nothing trains.
    Raises BackboneError if the folder holds no SavedModel that TensorFlow can load, or none that turns
    one batch of RGB images into one float32 vector an image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = _load(folder)
        self._infer, self._train = self._calls()
        self.side: int | None = self._infer.images.shape[1]
        output = _only_tensor(folder, self._infer.function.structured_outputs)
        if output.shape.rank != 2 or output.shape[1] is None or not output.dtype.is_floating:
            raise BackboneError(
                f"{folder} cannot be a backbone: it must return one vector of features an image, "
                f"[N, features]. Received: {output.dtype.name} {output.shape}."
            )
        self.features = int(output.shape[1])
        self.variables = self._variables()
        self.trainable_variables: Sequence[tf.Variable] = (
            getattr(self.module, "trainable_variables", ()) if callable(self.module) and self._train else ()
        )
        self.regularization_losses: Sequence[Callable[[], tf.Tensor]] = getattr(
            self.module, "regularization_losses", ()
        )

    @property
    def uses_training_argument(self) -> bool:
        """Whether training and inference are two graphs."""
        return self._train is not None and self._train.function is not self._infer.function

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Images [N, H, W, 3] in the module's own range -> float32 [N, features]."""
        call = self._train if training and self._train is not None else self._infer
        outputs = call.function(**{call.images.name: tf.cast(images, call.images.dtype)})
        return tf.cast(_only_tensor(self.folder, outputs), tf.float32)

    def _calls(self) -> tuple[_Call, _Call | None]:
        """For inference and for training; the latter is None if the module was saved without."""
        whole = callable(self.module)
        functions = self.module.__call__.concrete_functions if whole else list(self.module.signatures.values())
        calls = [call for call in map(_traced, functions) if call is not None and call.takes_pictures]
        for infer in calls:
            if any(value is True for value in infer.values.values()):
                continue
            wanted = {name: True if "training" in name else value for name, value in infer.values.items()}
            return infer, next((call for call in calls if call.values == wanted), None)
        raise BackboneError(
            f"{self.folder} cannot be a backbone: it has no function of one batch of square float images "
            f"[N, H, W, 3] besides 'training'. Received functions of: "
            f"{listed(str(function.structured_input_signature) for function in functions) or 'nothing'}."
        )

    def _variables(self) -> list[tf.Variable]:
        """Those that the module lists, in its order, and whatever else its functions use."""
        found = {variable.ref(): variable for variable in getattr(self.module, "variables", ())}
        for call in filter(None, (self._infer, self._train)):
            found |= {variable.ref(): variable for variable in call.function.variables if variable.ref() not in found}
        if odd := {v.dtype.name for v in found.values() if v.dtype.is_floating and v.dtype != tf.float32}:
            raise BackboneError(
                f"{self.folder} cannot be a backbone: its variables must be float32. Received: {listed(sorted(odd))}. "
                "Look for the module that it was converted from."
            )
        return list(found.values())


class GraphModule(Backbone):
    """A SavedModule as a backbone: float32 inside, batch norm and the like follow `training`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="module")
        self._replicated = tf.distribute.has_strategy()
        self.saved = SavedModule(folder)
        self.resources = self.saved.module
        self.features = self.saved.features
        self.side = self.saved.side
        self.uses_training_argument = self.saved.uses_training_argument
        self._trained = {variable.ref() for variable in self.saved.trainable_variables}
        self._arrays = {
            f"module/{index:04d}/{variable.name.split(':')[0]}": _adopted(variable, variable.ref() in self._trained)
            for index, variable in enumerate(self.saved.variables)
        }
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.saved(images, training)

    def for_inference(self) -> "GraphModule":
        """Itself; under several devices, each with statistics of its own, one to be filled with their mean."""
        return GraphModule(self.saved.folder) if self._replicated else self

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        return self._arrays

    @property
    def trainable_arrays(self) -> Iterator[keras.Variable]:
        return (variable for variable in self._arrays.values() if variable.value.ref() in self._trained)

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


def _traced(function: Any) -> _Call | None:
    """The function, if it takes one tensor."""
    specs = [part for part in tf.nest.flatten(function.structured_input_signature) if isinstance(part, tf.TypeSpec)]
    if len(specs) != 1 or not isinstance(specs[0], tf.TensorSpec):
        return None
    parameters = function.function_type.parameters if function.function_type is not None else {}
    values = {
        name: parameter.type_constraint.value
        for name, parameter in parameters.items()
        if hasattr(parameter.type_constraint, "value")
    }
    return _Call(function, specs[0], values)


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
