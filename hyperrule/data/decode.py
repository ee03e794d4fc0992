"""Decode image bytes to upright uint8 RGB pixels, in TensorFlow operations only: exported classifiers contain them."""

import tensorflow as tf

SCALES = (2, 4, 8)  # reductions that a JPEG decoder can apply before it computes pixels
ORIENTATION = 0x0112  # the EXIF tag, of type SHORT or, against the standard, LONG
LONG = 4
# For EXIF orientations 1 to 4: (rows reversed, columns reversed). 5 to 8 are the same after swapping the axes.
REVERSED = ((False, False), (False, True), (True, True), (True, False))
TIFF = r"(?:II\*\x00|MM\x00\*)"  # start of EXIF data: byte order and 42
EXIF_BYTES = (0, 1, 4, 5, 6, 7, 8, 9)  # offsets in a segment, without its length
EXIF_SEGMENT = (0xFF, 0xE1, *b"Exif\0\0")
MOST_SEGMENTS = 1000  # segments and fill bytes searched for EXIF: a file of nothing else must not take minutes


def decode(encoded: tf.Tensor, side: int | None = None) -> tf.Tensor:
    """Decode a JPEG, PNG, GIF (first frame), BMP or WebP (scalar string) to upright uint8 [height, width, 3], 0-255.

    The EXIF orientation is applied as by PIL.ImageOps.exif_transpose. Grey is repeated, CMYK is converted (within 8 of
    Pillow), 16 bits are cut to the upper 8, and PNG and WebP with alpha are composited over white.

    With `side`, a JPEG is decoded at 1/8, 1/4 or 1/2 of its size where that leaves at least 2 x `side` pixels in both
    directions: block means replace pixels that a bilinear resize to `side` would mostly skip. A 3024 px
    photograph at 480 px differs by 0.003 of the range on average and 0.2 on sharp edges; at 128 px by 0.008 and 0.4.
    Up to 7 columns or rows of padding in the last block count as picture.

    Raises InvalidArgumentError for any other input, including an animated WebP.
    """
    encoded = tf.convert_to_tensor(encoded)
    # Bytes without this marker have no EXIF in a JPEG, and skip its parser; others match by chance once in 2^48.
    exif = tf.strings.length(_before(encoded, r"Exif\x00\x00")) < tf.strings.length(encoded)
    image = tf.cond(
        _is_jpeg(encoded) & ~exif, lambda: _decode_jpeg(encoded, side), lambda: _decode_carefully(encoded, side)
    )
    return tf.ensure_shape(image, [None, None, 3])


# A separate function: if inlined, as branches are, its operations would cost 100 us even for images that skip it.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _decode_carefully(encoded: tf.Tensor, side: int | None) -> tf.Tensor:
    return tf.cond(
        _is_jpeg(encoded),
        lambda: _upright(_decode_jpeg(encoded, side), _orientation(_exif_of_jpeg(encoded))),
        lambda: _decode_other(encoded),
    )


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, 2), b"\xff\xd8")


def _decode_jpeg(encoded: tf.Tensor, side: int | None) -> tf.Tensor:
    """Decode to uint8 [height, width, 3] as stored, without applying the orientation."""
    if side is None:
        return tf.io.decode_jpeg(encoded, channels=3)
    fits = tf.reduce_min(tf.image.extract_jpeg_shape(encoded)[:2]) >= [2 * side * scale for scale in SCALES]
    scaled = [lambda ratio=ratio: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio) for ratio in (1, *SCALES)]
    return tf.switch_case(tf.reduce_sum(tf.cast(fits, tf.int32)), scaled)


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    png = tf.equal(tf.strings.substr(encoded, 0, 4), b"\x89PNG")
    webp = tf.strings.regex_full_match(tf.strings.substr(encoded, 0, 15), r"RIFF\C{4}WEBPVP8")
    image = tf.cond(
        (png & _has_alpha_png(encoded)) | (webp & _has_alpha_webp(encoded)),
        lambda: _over_white(tf.io.decode_image(encoded, channels=4, expand_animations=False)),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    # Chunk eXIf of a PNG; chunk EXIF of a WebP, with its length and, from some writers, a JPEG's prefix.
    chunk = _from(encoded, r"(?:eXIf|EXIF\C{4}(?:Exif\x00\x00)?)" + TIFF)
    return tf.cond((png | webp) & tf.not_equal(chunk, ""), lambda: _upright(image, _orientation(chunk)), lambda: image)


def _has_alpha_png(encoded: tf.Tensor) -> tf.Tensor:
    """Return a bool scalar: colour type with alpha, or a chunk tRNS of at most 256 bytes before the pixels."""
    before_pixels = _before(encoded, "IDAT")
    return tf.strings.regex_full_match(before_pixels, r"\C{25}[\x04\x06]\C*|\C*\x00\x00[\x00\x01]\CtRNS\C*")


def _has_alpha_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Return a bool scalar. Animations count as opaque: TensorFlow then refuses them; with alpha, TensorFlow 2.21 can
    corrupt memory."""
    header = tf.io.decode_raw(encoded, tf.uint8, fixed_length=32)
    extended = tf.equal(header[15], ord("X")) & tf.equal(tf.bitwise.bitwise_and(header[20], 0x12), 0x10)
    lossless = tf.equal(header[15], ord("L")) & tf.equal(tf.bitwise.bitwise_and(header[24], 0x10), 0x10)
    return extended | lossless


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """Composite uint8 [height, width, 4] over white: uint8 [height, width, 3]."""
    colour, alpha = tf.split(tf.cast(image, tf.uint16), [3, 1], axis=2)
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _exif_of_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Return the file from its EXIF segment on, or "". Segments are found by following their lengths."""
    data = tf.concat([tf.io.decode_raw(encoded, tf.uint8), tf.zeros([16], tf.uint8)], axis=0)
    data_end = tf.size(data) - 16

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all(tf.equal(tf.gather(data, at + EXIF_BYTES), EXIF_SEGMENT))

    def continues(at: tf.Tensor) -> tf.Tensor:
        segment = (data[at] == 0xFF) & (data[at + 1] != 0xDA)  # 0xDA: pixels follow
        return segment & ~is_exif(at)

    def following(at: tf.Tensor) -> tf.Tensor:
        length = tf.cast(data[at + 2], tf.int32) * 256 + tf.cast(data[at + 3], tf.int32)
        fill = tf.equal(data[at + 1], 0xFF)
        return tf.minimum(at + tf.where(fill, 1, 2 + length), data_end)

    at = tf.while_loop(continues, lambda at: [following(at)], [tf.constant(2)], maximum_iterations=MOST_SEGMENTS)[0]
    return tf.cond(is_exif(at), lambda: tf.strings.substr(encoded, at, -1), lambda: tf.constant(""))


def _orientation(exif: tf.Tensor) -> tf.Tensor:
    """Return the orientation in EXIF data (scalar string) as an int32 scalar, 1 to 8; 1 if missing or invalid."""
    data = tf.cast(tf.concat([tf.io.decode_raw(_from(exif, TIFF), tf.uint8), tf.zeros([8], tf.uint8)], 0), tf.int64)
    size = tf.size(data, tf.int64)
    weights = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
    little = tf.equal(data[0], ord("I"))

    def number(digits: tf.Tensor, count: int) -> tf.Tensor:
        """Convert bytes (int64 [..., count]) to integers (int64 [...]) in the byte order of the data."""
        digits = tf.cond(little, lambda: tf.reverse(digits, [-1]), lambda: digits)
        return tf.reduce_sum(digits * weights[4 - count :], axis=-1)

    table = tf.minimum(number(data[4:8], 4), size - 2)
    count = tf.minimum(number(data[table : table + 2], 2), (size - table - 2) // 12)
    entries = tf.reshape(data[table + 2 : table + 2 + 12 * count], [count, 12])
    entries = tf.boolean_mask(entries, tf.equal(number(entries[:, :2], 2), ORIENTATION))
    values = tf.where(
        tf.equal(number(entries[:, 2:4], 2), LONG), number(entries[:, 8:12], 4), number(entries[:, 8:10], 2)
    )
    value = tf.concat([[1], values], axis=0)[-1]
    return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    swapped = tf.cast(orientation > 4, tf.int32)
    axes = tf.where(tf.gather(REVERSED, (orientation - 1) % 4))[:, 0]
    return tf.reverse(tf.transpose(image, tf.stack([swapped, 1 - swapped, 2])), axes)


def _before(text: tf.Tensor, pattern: str) -> tf.Tensor:
    """Return the text before the first match (RE2, \\C is any byte), or all of it."""
    return tf.strings.regex_replace(text, pattern + r"\C*", "", replace_global=False)


def _from(text: tf.Tensor, pattern: str) -> tf.Tensor:
    """Return the text from the first match on, or ""."""
    return tf.strings.substr(text, tf.strings.length(_before(text, pattern)), -1)
