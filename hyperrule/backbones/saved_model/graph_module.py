"""Any SavedModel from images to features, run as an opaque graph in its own data types.

The interface is that of TF2 Hub's reusable SavedModels: `module(images, training)`, `variables`,
`trainable_variables`, `regularization_losses` (https://www.tensorflow.org/hub/reusable_saved_models).
SavedModels with signatures only, and modules in the older TF1 format, extract features but cannot
be trained.
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
    """A traced function of one tensor, `images`, and the Python values of its other arguments."""

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
    """A loaded SavedModel with its functions for inference and training, and its variables.

    `side` is the only image side in pixels that it takes, None for any. `trainable_variables` is empty if it cannot be
    trained. Raises BackboneError if TensorFlow cannot load the folder, or if the module does not turn a batch of RGB
    images into one vector of floats for each image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = _load(folder)
        self._infer, self._train = self._calls()
        self.side: int | None = self._infer.images.shape[1]
        output = _only_tensor(folder, self._infer.function.structured_outputs)
        if output.shape.rank != 2 or output.shape[1] is None or not output.dtype.is_floating:
            raise BackboneError(
                f"{folder} cannot be a backbone: it must return one vector of features for each image, "
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
        """Whether training and inference are different graphs."""
        return self._train is not None and self._train.function is not self._infer.function

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Images float [N, H, W, 3] in the module's input range -> features float32 [N, features]."""
        call = self._train if training and self._train is not None else self._infer
        outputs = call.function(**{call.images.name: tf.cast(images, call.images.dtype)})
        return tf.cast(_only_tensor(self.folder, outputs), tf.float32)

    def _calls(self) -> tuple[_Call, _Call | None]:
        """Return the functions for inference and for training; the latter is None if the module has none."""
        whole = callable(self.module)
        functions = self.module.__call__.concrete_functions if whole else list(self.module.signatures.values())
        calls = [call for call in map(_traced, functions) if call is not None and call.takes_pictures]
        for infer in calls:
            if any(value is True for value in infer.values.values()):
                continue
            wanted = {name: True if "training" in name else value for name, value in infer.values.items()}
            return infer, next((call for call in calls if call.values == wanted), None)
        raise BackboneError(
            f"{self.folder} cannot be a backbone: it has no function whose only arguments are one batch of square "
            f"float images [N, H, W, 3] and 'training'. Received functions of: "
            f"{listed(str(function.structured_input_signature) for function in functions) or 'nothing'}."
        )

    def _variables(self) -> list[tf.Variable]:
        """Return the variables that the module lists, in its order, then any others that its functions use."""
        found = {variable.ref(): variable for variable in getattr(self.module, "variables", ())}
        for call in filter(None, (self._infer, self._train)):
            found |= {variable.ref(): variable for variable in call.function.variables if variable.ref() not in found}
        if odd := {v.dtype.name for v in found.values() if v.dtype.is_floating and v.dtype != tf.float32}:
            raise BackboneError(
                f"{self.folder} cannot be a backbone: its variables must be float32. Received: {listed(sorted(odd))}. "
                "Use the module that it was converted from."
            )
        return list(found.values())


class GraphModule(Backbone):
    """A SavedModule as a backbone: variables are float32; batch norm and dropout respect `training`."""

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
        """Return itself; with several devices, whose statistics differ, a copy to be filled with their mean."""
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
    """Return the function if it takes exactly one tensor, else None."""
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
    """Return the only output, or the one called "default", as in hub signatures. Raises BackboneError for several."""
    if isinstance(outputs, dict) and "default" in outputs:
        return outputs["default"]
    tensors = tf.nest.flatten(outputs)
    if len(tensors) != 1:
        names = sorted(outputs) if isinstance(outputs, dict) else [str(tensor.shape) for tensor in tensors]
        raise BackboneError(f"{folder} cannot be a backbone: it returns {len(tensors)} outputs: {listed(names)}.")
    return tensors[0]


def _adopted(variable: tf.Variable, trainable: bool) -> keras.Variable:
    """Wrap an existing variable as a Keras variable, without slashes in its name, which Keras does not allow."""
    name = variable.name.split(":")[0].replace("/", "_")
    adopted = keras.Variable(
        variable, trainable=trainable, dtype=variable.dtype.name, shape=variable.shape, autocast=False, name=name
    )
    assert adopted.value is variable
    return adopted
