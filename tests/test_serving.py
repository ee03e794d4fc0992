"""What TensorFlow Serving is given, and docs/serving/, tested without the server itself."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from model_server import ModelServer
from modules import SmallNet
from PIL import Image

from hyperrule.backbones.saved_model.graph_module import GraphModule
from hyperrule.exporting.saved_model import export_saved_model
from hyperrule.prediction.formats import Card
from hyperrule.training.classifier import Classifier

SERVING = Path(__file__).parents[1] / "docs" / "serving"
NAMES = ("tabby cat", "Löwe", 'the "best" dog')
SIZE = 32
STRING, MESSAGE = 9, 11  # descriptor.proto
# tensorflow_serving/apis/{prediction_log,predict,model}.proto: by message, its fields, their numbers and types.
MESSAGES = {
    "PredictionLog": [("predict_log", 6, ".serving.PredictLog")],
    "PredictLog": [("request", 1, ".serving.PredictRequest")],
    "PredictRequest": [("model_spec", 1, ".serving.ModelSpec"), ("inputs", 2, ".serving.Input")],
    "ModelSpec": [("name", 1, None), ("signature_name", 3, None)],
    "Input": [("key", 1, None), ("value", 2, ".tensorflow.TensorProto")],
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random classifier, as a run exports it."""
    folder = tmp_path_factory.mktemp("saved_model") / "1"
    SmallNet().save(folder.with_name("backbone"))
    classifier = Classifier(GraphModule(folder.with_name("backbone")), len(NAMES), (0, 1))
    classifier.head.kernel.assign(np.random.default_rng(0).normal(size=classifier.head.kernel.shape))
    export_saved_model(classifier, Card(name="test", class_names=NAMES, size=SIZE, temperature=1.5), folder)
    return folder


@pytest.fixture(scope="module")
def model(exported: Path) -> Any:
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five of different sizes and formats."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    files = [folder / f"{number}.{kind}" for number, kind in enumerate(("jpg", "png", "gif", "bmp", "webp"))]
    for number, file in enumerate(files):
        pixels = rng.integers(0, 256, (20 + number, 30, 3)) * rng.uniform(0, 1, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return files


@pytest.fixture
def server(model: Any) -> Iterator[ModelServer]:
    with ModelServer(model) as running:
        yield running


def prediction_log() -> Any:
    """The class of that message, made from MESSAGES."""
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto", package="serving", syntax="proto3", dependency=["tensorflow/core/framework/tensor.proto"]
    )
    for name, fields in MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = 3 if field == "inputs" else 1  # repeated, optional
            described.field.add(
                name=field, number=number, label=label, type=MESSAGE if kind else STRING, type_name=kind
            )
    pool = descriptor_pool.Default()  # which knows TensorProto
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("serving.PredictionLog"))


def test_warm_up_requests_are_answered_by_the_signatures_they_name(exported: Path, model: Any) -> None:
    kind, asked = prediction_log(), []
    for record in tf.data.TFRecordDataset(str(exported / "assets.extra/tf_serving_warmup_requests")):
        log = kind.FromString(record.numpy())
        assert log.SerializeToString() == record.numpy()  # no field is unknown
        request = log.predict_log.request
        inputs = {each.key: tf.constant(tf.make_ndarray(each.value)) for each in request.inputs}
        answer = model.signatures[request.model_spec.signature_name](**inputs)
        (tensor,) = inputs.values()
        assert answer["label"].shape == (len(tensor),)
        assert set(answer["label"].numpy()) <= {name.encode() for name in NAMES}
        asked.append((request.model_spec.signature_name, *inputs, len(tensor)))
    assert asked == [
        ("serving_default", "image_bytes", 1),
        ("serving_default", "image_bytes", 8),
        ("images", "images", 1),
    ]


def client(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run as in a Python without any package."""
    command = [sys.executable, "-I", "-S", str(SERVING / "client.py"), *map(str, arguments)]
    direct = {**os.environ, "no_proxy": "*"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=direct, check=False)


def test_client_prints_label_and_score_of_every_image(server: ModelServer, images: list[Path]) -> None:
    done = client("--server", server.address, "--batch", 2, *images)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.asked == [2, 2, 1]
    answer = server.model.signatures["serving_default"](image_bytes=tf.constant([file.read_bytes() for file in images]))
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(map(str, images))
    assert [row[1] for row in rows] == [label.decode() for label in answer["label"].numpy()]
    assert [float(row[2]) for row in rows] == pytest.approx(answer["score"].numpy(), abs=6e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "{server}", "{broken}"], "did not classify {broken}: 400 Bad Request"),
        (["--server", "{server}", "--model", "other", "{image}"], "404 Not Found"),
        (["--server", "{server}", "{missing}"], "cannot read {missing}: No such file or directory"),
        (["--server", "127.0.0.1:{free}", "{image}"], "no answer: [Errno 111] Connection refused"),
        (["--grpc", "{image}"], "pip install tensorflow-serving-api"),
    ],
)
def test_client_says_what_is_wrong_in_one_line(
    arguments: list[str], said: str, server: ModelServer, images: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        names = {
            "server": server.address,
            "broken": broken,
            "image": images[0],
            "missing": tmp_path / "missing.jpg",
            "free": taken.getsockname()[1],
        }
        done = client(*(argument.format(**names) for argument in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("client.py: ")
    assert said.format(**names) in done.stderr
    assert done.stderr.count("\n") == 1


def test_client_refuses_answers_of_other_models(server: ModelServer, images: list[Path]) -> None:
    server.predict = lambda request: {"predictions": [1.0]}  # type: ignore[method-assign]
    done = client("--server", server.address, images[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert "the answer is not that of a hyperrule export" in done.stderr


@pytest.fixture
def service() -> dict[str, Any]:
    return yaml.safe_load((SERVING / "compose.yaml").read_text())["services"]["classifier"]


def test_client_asks_where_the_compose_file_serves(service: dict[str, Any]) -> None:
    usage = " ".join(client("--help").stdout.split())
    name = service["environment"]["MODEL_NAME"]
    assert f"MODEL_NAME of the server [{name}]" in usage
    assert service["volumes"][0]["target"] == f"/models/{name}"
    for published in service["ports"]:
        outside, inside = published.removeprefix("127.0.0.1:").split(":")
        assert outside == inside
        assert f"localhost:{inside}" in usage


def test_health_check_says_whether_the_model_is_there(service: dict[str, Any], model: Any) -> None:
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"

    def exit_code(port: int) -> int:
        ours = [part.replace("localhost/8501", f"127.0.0.1/{port}") for part in command]
        return subprocess.run(ours, capture_output=True, timeout=20, check=False).returncode

    with ModelServer(model) as running:
        assert exit_code(running.port) == 0
        running.state = "LOADING"
        assert exit_code(running.port) != 0
    assert exit_code(running.port) != 0
