"""HTTP: `POST /v1/infer`, `GET /health`, `GET /metrics`; every request bounded in size and time.

`/v1/infer` takes an npz with one array `inputs` (`application/x-npz`), or the raw little-endian numbers
(`application/octet-stream`) with their shape in `X-Edgekd-Shape: 1,3,224,224`. It answers in the same form.
"""

from __future__ import annotations

import io
import json
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from edgekd_agent import report
from edgekd_agent.engine.running import Refused
from edgekd_agent.serve.holding import BadRequest, Held

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekd_agent.serve.service import Service

NPZ, RAW = "application/x-npz", "application/octet-stream"
SHAPE, DTYPE = "X-Edgekd-Shape", "X-Edgekd-Dtype"
_TIMEOUT_S = 30.0
_MAX_ROWS = 4096
_MAX_LENGTH_DIGITS = 18


class _Stop(Exception):
    """The request ends here."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _UntilDeadline(io.RawIOBase):
    """Reads of a connection, which together may take no longer than until a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline_s = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(_TIMEOUT_S)


class Handler(BaseHTTPRequestHandler):
    """One connection; `service` is set on the server."""

    protocol_version = "HTTP/1.1"
    server_version = "edgekd"
    sys_version = ""
    timeout = _TIMEOUT_S

    def setup(self) -> None:
        """Read through a deadline: a client that sends a byte now and then holds its thread no longer than others."""
        super().setup()
        self._reads = _UntilDeadline(self.connection)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._reads)

    def handle_one_request(self) -> None:
        """Answer one request, all of which must arrive in time."""
        self._reads.deadline_s = time.monotonic() + _TIMEOUT_S
        super().handle_one_request()

    @property
    def service(self) -> Service:
        """What answers."""
        found: Service = self.server.service  # type: ignore[attr-defined]
        return found

    def do_GET(self) -> None:
        """Answer `/health` and `/metrics`."""
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            self.close_connection = True  # a body is not read, and must not pass for the next request
        if self.path == "/health":
            document = self.service.health()
            self._send(200 if document["is_ok"] else 503, "application/json", json.dumps(document).encode())
        elif self.path == "/metrics":
            held = self.service.held
            text = report.metrics(self.service.site) + self.service.counts.text(held.generation.number if held else 0)
            self._send(200, "text/plain; version=0.0.4", text.encode())
        else:
            self._send_problem(404, "there are /health, /metrics and POST /v1/infer")

    def do_POST(self) -> None:
        """Answer `/v1/infer`."""
        try:
            content = self._body()
            held = self.service.held
            if held is None:
                raise _Stop(503, "no release runs on this device yet")
            self._infer(held, content)
        except _Stop as stop:
            self._send_problem(stop.code, str(stop))

    def _body(self) -> bytes:
        """Return the body; one that is refused is not read, so the connection ends with the answer."""
        length = self.headers.get("Content-Length", "")
        most = self.service.site.settings.max_request_mib << 20
        is_last, self.close_connection = self.close_connection, True
        if self.path != "/v1/infer":
            raise _Stop(404, "there are /health, /metrics and POST /v1/infer")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            raise _Stop(411, "Content-Length is needed")
        if len(length) > _MAX_LENGTH_DIGITS:
            raise _Stop(413, f"a length of {len(length)} digits; at most {most} bytes are taken")
        if int(length) > most:
            raise _Stop(413, f"{length} bytes; at most {most} are taken")
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise _Stop(400, "the request was cut short")
        self.close_connection = is_last
        return content

    def _infer(self, held: Held, content: bytes) -> None:
        from edgekd_agent.engine import npz

        kind = self.headers.get("Content-Type", NPZ)
        try:
            inputs = self._inputs(kind, content, held)
        except (npz.NotAnNpz, ValueError) as error:
            raise _Stop(400, str(error)) from error
        if inputs.ndim and len(inputs) > _MAX_ROWS:
            raise _Stop(413, f"{len(inputs)} rows; at most {_MAX_ROWS} are taken")
        began = time.perf_counter()
        try:
            outputs = held.infer(inputs)
        except BadRequest as error:
            raise _Stop(400, str(error)) from error
        except Refused as error:
            self.service.counts.failed()
            raise _Stop(500, str(error)) from error
        self.service.counts.inferred(time.perf_counter() - began)
        if kind == RAW:
            self._send_raw(next(iter(outputs.values())), held)
        else:
            self._send(200, NPZ, npz.written(outputs), held)

    def _inputs(self, kind: str, content: bytes, held: Held) -> NDArray[Any]:
        from edgekd_agent.engine import npz

        if kind == NPZ:
            return npz.read(io.BytesIO(content), {"inputs"}, len(content))["inputs"]
        if kind == RAW:
            shape = tuple(int(size) for size in self.headers.get(SHAPE, "").split(","))
            return npz.from_raw(content, shape, held.engine.input_dtype)
        raise _Stop(415, f"{NPZ} and {RAW} are taken")

    def _send_raw(self, value: NDArray[Any], held: Held) -> None:
        facts = {SHAPE: ",".join(map(str, value.shape)), DTYPE: value.dtype.name}
        content = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
        self._send(200, RAW, content, held, facts)

    def _send_problem(self, code: int, message: str) -> None:
        self._send(code, "application/json", json.dumps({"error": message}).encode())

    def _send(
        self,
        code: int,
        kind: str,
        content: bytes,
        held: Held | None = None,
        facts: dict[str, str] | None = None,
    ) -> None:
        self.service.counts.answered(code)
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if held is not None:
            self.send_header("X-Edgekd-Generation", str(held.generation.number))
        for name, text in (facts or {}).items():
            self.send_header(name, text)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: requests are counted, not logged."""
