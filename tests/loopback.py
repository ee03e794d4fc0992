"""A web server on the loopback interface that gives scripted answers and records requests."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from hyperrule.support.progress import Reporter


@dataclass
class Answer:
    """The answer for one path. `cut` ends it after that many bytes; `hang` sends nothing until the server ends, `stall`
    no more than that many bytes."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    length: bool = True
    cut: int | None = None
    hang: bool = False
    stall: int = 0


class Loopback:
    """`answers` by path; a list gives its answers one after another, and repeats the last one.

    `asked` has (path, Range header) of every request, `sent` the number of bytes of every body.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent: list[int] = []
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Stop the server; `url` then refuses connections."""
        self._ended.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _answer(self, path: str) -> Answer:
        answer = self.answers.get(path, Answer(status=404))
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                loopback.asked.append((self.path, wanted))
                answer = loopback._answer(self.path.split("?")[0])
                if answer.hang:
                    loopback._ended.wait()
                    return
                first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and answer.ranges else 0
                status = 416 if first and first >= len(answer.body) else 206 if first else answer.status
                body = b"" if status == 416 else answer.body[first:]
                self.send_response(status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.length:
                    self.send_header("Content-Length", str(len(body)))
                if status == 206:
                    self.send_header("Content-Range", f"bytes {first}-{len(answer.body) - 1}/{len(answer.body)}")
                self.end_headers()
                loopback.sent.append(len(body[: answer.stall or answer.cut]))
                self.wfile.write(body[: answer.stall or answer.cut])
                if answer.stall:
                    loopback._ended.wait()

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        return Handler


class Heard(Reporter):
    """A reporter that records its lines."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
