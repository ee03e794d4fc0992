"""A stand-in for TensorFlow Serving: the part of its REST API that docs/serving/ uses, on the loopback interface.

Follows https://www.tensorflow.org/tfx/serving/api_rest: the status of a model, and `predict` in the row format.
"""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import tensorflow as tf

PATH = re.compile(r"/v1/models/([^/:]+)(:predict)?")


class ModelServer:
    """Serves a SavedModel as "classifier" and reports `state` for it; `asked` records the size of every batch."""

    def __init__(self, model: Any, state: str = "AVAILABLE") -> None:
        self.model = model
        self.state = state
        self.asked: list[int] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the signature on rows, each an object of its inputs, and return rows, each an object of its outputs."""
        rows = request["instances"]
        self.asked.append(len(rows))
        inputs = {name: tf.constant([_value(row[name]) for row in rows]) for name in rows[0]}
        answer = self.model.signatures[request.get("signature_name", "serving_default")](**inputs)
        columns = {name: _plain(tensor.numpy().tolist()) for name, tensor in answer.items()}
        return {"predictions": [{name: column[row] for name, column in columns.items()} for row in range(len(rows))]}

    def status(self) -> dict[str, Any]:
        version = {"version": "1", "state": self.state, "status": {"error_code": "OK", "error_message": ""}}
        return {"model_version_status": [version]}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(server.status if self._asks(None) else None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer((lambda: server.predict(json.loads(body))) if self._asks(":predict") else None)

            def _asks(self, verb: str | None) -> bool:
                match = PATH.fullmatch(self.path)
                return match is not None and match.groups() == ("classifier", verb)

            def _answer(self, work: Any) -> None:
                try:
                    status, content = (200, work()) if work else (404, {"error": "Servable not found for request"})
                except tf.errors.InvalidArgumentError as error:
                    status, content = 400, {"error": error.message}
                encoded = json.dumps(content, indent=1).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        return Handler


def _value(item: Any) -> Any:
    return base64.b64decode(item["b64"], validate=True) if isinstance(item, dict) else item


def _plain(item: Any) -> Any:
    """Decode byte strings: TensorFlow Serving sends outputs as text unless their name ends in _bytes."""
    if isinstance(item, list):
        return [_plain(each) for each in item]
    return item.decode() if isinstance(item, bytes) else item
