"""Classify images with TensorFlow Serving and print path, label and score of each, separated by tabs.

python client.py cat.jpg dog.png           # REST; needs only Python's standard library
python client.py --grpc cat.jpg dog.png    # gRPC; pip install tensorflow-serving-api
"""

import argparse
import base64
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

Answer = tuple[str, float]  # the likeliest class and its probability
SHOWN = 300  # characters of an error message, which may be a page of HTML
REST, GRPC = "localhost:8501", "localhost:8500"


def ask_rest(images: list[bytes], server: str, model: str, timeout: float) -> list[Answer]:
    """Classify encoded images through REST. Raises OSError, with the server's message if it sent one."""
    instances = [{"image_bytes": {"b64": base64.b64encode(image).decode()}} for image in images]
    request = urllib.request.Request(
        f"http://{server}/v1/models/{model}:predict",
        json.dumps({"signature_name": "serving_default", "instances": instances}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            rows = json.load(response)["predictions"]
            return [(row["label"], row["score"]) for row in rows]
    except urllib.error.HTTPError as error:
        raise OSError(f"{error.code} {error.reason}: {error.read().decode(errors='replace')}") from None
    except urllib.error.URLError as error:
        raise OSError(f"no answer: {error.reason}") from None
    except (http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise OSError(f"the answer is not that of a hyperrule export: {error!r}") from None


def ask_grpc(images: list[bytes], server: str, model: str, timeout: float) -> list[Answer]:
    """Classify encoded images through gRPC. Raises OSError, with the server's message if it sent one."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest(output_filter=["label", "score"])
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images))
    with grpc.insecure_channel(server) as channel:
        try:
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout)
        except grpc.RpcError as error:
            raise OSError(f"{error.code().name}: {error.details()}") from None
    labels, scores = (tf.make_ndarray(response.outputs[name]) for name in ("label", "score"))
    return [(label.decode(), float(score)) for label, score in zip(labels, scores, strict=True)]


def batches(paths: list[Path], size: int) -> Iterator[list[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG, GIF, BMP or WebP")
    parser.add_argument("--grpc", action="store_true", help="ask by gRPC instead of REST")
    parser.add_argument("--server", metavar="HOST:PORT", help=f"[{REST}, with --grpc {GRPC}]")
    parser.add_argument("--model", default="classifier", help="MODEL_NAME of the server [%(default)s]")
    parser.add_argument("--batch", type=int, default=8, help="images in a request [%(default)s]")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for an answer [%(default)s]")
    args = parser.parse_args()
    if args.batch < 1:
        parser.error(f"--batch must be at least 1. Received: {args.batch}")
    ask, server = (ask_grpc, args.server or GRPC) if args.grpc else (ask_rest, args.server or REST)
    for paths in batches(args.images, args.batch):
        try:
            images = [path.read_bytes() for path in paths]
        except OSError as error:
            sys.exit(f"client.py: cannot read {error.filename}: {error.strerror}")
        try:
            answers = ask(images, server, args.model, args.timeout)
        except ImportError as error:
            sys.exit(f"client.py: {error}; --grpc needs: pip install tensorflow-serving-api")
        except OSError as error:
            reason = " ".join(str(error).split())[:SHOWN]
            sys.exit(f"client.py: {server} did not classify {', '.join(map(str, paths))}: {reason}")
        for path, (label, score) in zip(paths, answers, strict=True):
            print(path, label, f"{score:.4f}", sep="\t")


if __name__ == "__main__":
    main()
