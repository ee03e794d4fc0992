"""BiT built from plain Keras layers and trained with `model.fit`: what one would write without hyperrule."""

import keras
import tensorflow as tf

UNITS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class StdConv2D(keras.layers.Conv2D):
    """Conv2D that standardises its kernel to zero mean and unit variance for every output channel."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(tf.convert_to_tensor(self.kernel), [0, 1, 2], keepdims=True)
        kernel = (self.kernel - mean) / tf.sqrt(variance + 1e-10)
        return keras.ops.conv(x, kernel, self.strides, self.padding)


def plain_keras(depth: int, width: float, side: int, classes: int = 10) -> keras.Model:
    """Return a compiled model: images [N, side, side, 3] in [-1, 1] -> logits [N, classes]; SGD with momentum."""

    def conv(x: keras.KerasTensor, filters: int, size: int, stride: int = 1) -> keras.KerasTensor:
        if size > 1 and stride > 1:
            x = keras.layers.ZeroPadding2D((size - 1) // 2)(x)
            return StdConv2D(filters, size, stride, "valid", use_bias=False)(x)
        return StdConv2D(filters, size, stride, "same", use_bias=False)(x)

    def norm_relu(x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.ReLU()(keras.layers.GroupNormalization(32, epsilon=1e-5)(x))

    images = keras.Input((side, side, 3))
    root = int(64 * width)
    x = keras.layers.ZeroPadding2D(1)(conv(images, root, 7, 2))
    x = keras.layers.MaxPooling2D(3, 2)(x)
    for block, count in enumerate(UNITS[depth]):
        mid = root * 2**block
        for index in range(count):
            stride = 2 if block and not index else 1
            y = norm_relu(x)
            shortcut = conv(y, 4 * mid, 1, stride) if index == 0 else x
            y = norm_relu(conv(y, mid, 1))
            y = norm_relu(conv(y, mid, 3, stride))
            x = conv(y, 4 * mid, 1) + shortcut
    x = keras.layers.GlobalAveragePooling2D()(norm_relu(x))
    model = keras.Model(images, keras.layers.Dense(classes, kernel_initializer="zeros")(x))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, 0.9), loss, jit_compile=False)
    return model
