"""Write the same labelled images as every kind of data set, for the contract test of all sources."""

from typing import NamedTuple


class LabelledImage(NamedTuple):
    """`name` is unique within split and class, with its extension, such as "03.jpg"."""

    split: str
    class_name: str
    name: str
    encoded: bytes
