"""TFRecord files of tf.train.Example, read without TensorFlow.

A record is its length (uint64), the masked CRC-32C of the length (uint32), the data, and the CRC of the data
(uint32), all little-endian (tensorflow/core/lib/io/record_writer.h). The CRC of every length is checked, which detects
files of another format and misplaced records. The CRC of the data is not: computing it in Python would take longer than
everything else.
"""

import os
import reprlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from hyperrule.errors import DataError
from hyperrule.support.files import os_errors_as

HEADER = struct.Struct("<QI")  # length, CRC of the length
FOOTER_BYTES = 4
GZIP_MAGIC = b"\x1f\x8b"
BUFFER_BYTES = 1 << 20

# tensorflow/core/example/{feature,example}.proto: the wire format depends on numbers and types, not on names.
SCHEMA = """
    name: "example.proto" package: "hyperrule" syntax: "proto3"
    message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
    message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
    message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
    message_type {
        name: "Feature"
        oneof_decl { name: "kind" }
        field { name: "bytes" number: 1 type: TYPE_MESSAGE type_name: ".hyperrule.BytesList" oneof_index: 0 }
        field { name: "floats" number: 2 type: TYPE_MESSAGE type_name: ".hyperrule.FloatList" oneof_index: 0 }
        field { name: "integers" number: 3 type: TYPE_MESSAGE type_name: ".hyperrule.Int64List" oneof_index: 0 }
    }
    message_type {
        name: "Features"
        nested_type {
            name: "FeatureEntry"
            field { name: "key" number: 1 type: TYPE_STRING }
            field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".hyperrule.Feature" }
            options { map_entry: true }
        }
        field {
            name: "feature" number: 1 label: LABEL_REPEATED
            type: TYPE_MESSAGE type_name: ".hyperrule.Features.FeatureEntry"
        }
    }
    message_type {
        name: "Example"
        field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".hyperrule.Features" }
    }
"""


def _message_type() -> Any:
    """Return the class of tf.train.Example, in a separate pool so that it cannot clash with TensorFlow's."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("hyperrule.Example"))


EXAMPLE = _message_type()


@dataclass(frozen=True)
class Record:
    """Record `number` (from 0) of a file; `data` starts at byte `offset`, and `features` are its Example's."""

    file: Path
    number: int
    offset: int
    data: bytes
    features: Any

    def keys(self) -> list[str]:
        return sorted(self.features)

    def feature(self, key: str) -> list[bytes] | list[int] | list[float] | None:
        """Return the values of the key; None if the Example does not have it."""
        if key not in self.features:
            return None
        feature = self.features[key]
        kind = feature.WhichOneof("kind")
        return list(getattr(feature, kind).value) if kind else []

    def place(self, key: str) -> tuple[int, int]:
        """Return offset and length, in bytes, of the key's single bytes value. Raises DataError if it is not one."""
        values = self.feature(key)
        if not values or len(values) > 1 or not isinstance(values[0], bytes):
            has = "it has: " + ", ".join(self.keys()) if values is None else f"received {reprlib.repr(values)}"
            raise DataError(f"{key!r} of {self} is not one value of bytes; {has}.")
        # If the same bytes also occur earlier, those serve as well.
        return self.offset + self.data.index(values[0]), len(values[0])

    def __str__(self) -> str:
        return f"record {self.number} of {self.file}"


def records(file: Path) -> Iterator[Record]:
    """Yield the records of a file, one in memory at a time.

    Raises DataError, with the record's number, if the file cannot be read, is compressed, ends within a record, or
    holds anything but Examples.
    """
    with os_errors_as(DataError, f"cannot read {file}"), file.open("rb", BUFFER_BYTES) as stream:
        size = os.fstat(stream.fileno()).st_size
        number, offset = 0, 0
        while offset < size:
            length = _length(stream.read(HEADER.size), file, number)
            offset += HEADER.size
            if offset + length + FOOTER_BYTES > size:
                raise DataError(f"{file} is cut off within record {number}, at byte {size}; download it again.")
            data = stream.read(length)
            stream.seek(FOOTER_BYTES, os.SEEK_CUR)
            yield Record(file, number, offset, data, _features(data, file, number))
            number, offset = number + 1, offset + length + FOOTER_BYTES


def _length(header: bytes, file: Path, number: int) -> int:
    """Return the length in bytes of the data that follow the header."""
    if len(header) < HEADER.size:
        raise DataError(f"{file} is cut off within the header of record {number}; download it again.")
    length, checksum = HEADER.unpack(header)
    if _masked_crc32c(header[:8]) != checksum:
        if number:
            raise DataError(f"{file} is damaged at record {number}: the checksum of its length is wrong.")
        if header.startswith(GZIP_MAGIC):
            raise DataError(
                f"{file} is compressed with GZIP, which does not allow reading single images. "
                "Write the records without compression, or unpack every shard with gunzip."
            )
        raise DataError(
            f"{file} is not a TFRecord file, or a compressed one: the checksum of the first length is wrong."
        )
    return int(length)


def _features(data: bytes, file: Path, number: int) -> Any:
    try:
        return EXAMPLE.FromString(data).features.feature
    except DecodeError as error:
        raise DataError(f"record {number} of {file} is not a tf.train.Example, or is damaged.") from error


def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [entry >> 1 ^ (0x82F63B78 if entry & 1 else 0) for entry in table]
    return table


CRC32C_TABLE = _crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli), masked as TFRecord stores it: rotated, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC32C_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
