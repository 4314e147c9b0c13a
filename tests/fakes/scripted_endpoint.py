"""An endpoint that answers what a function says: for the oddities of relays, one line of a test each."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# (number of the request from 0, its body) -> (status, headers, body as JSON value, text or bytes)
Script = Callable[[int, dict[str, Any]], tuple[int, dict[str, str], Any]]


def said(content: Any, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A completion that says `content`."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
    choice["message"] |= message  # type: ignore[operator]
    usage = {"prompt_tokens": 300, "completion_tokens": 2}
    return {"id": "x", "object": "chat.completion", "model": "g-1", "choices": [choice], "usage": usage}


def ok(content: Any = "A", **more: Any) -> tuple[int, dict[str, str], Any]:
    """A good answer, for a Script."""
    return 200, {}, said(content, **more)


class ScriptedEndpoint:
    """`with ScriptedEndpoint(script) as endpoint:` endpoint.url, .bodies, .times_s (monotonic), .headers."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.times_s: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"endpoint": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def __enter__(self) -> "ScriptedEndpoint":
        serve = {"poll_interval": 0.02}
        threading.Thread(target=self.server.serve_forever, kwargs=serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    endpoint: ScriptedEndpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.endpoint.lock:
            number = len(self.endpoint.bodies)
            self.endpoint.bodies.append(body)
            self.endpoint.times_s.append(time.monotonic())
            self.endpoint.headers.append(dict(self.headers))
        status, headers, answer = self.endpoint.script(number, body)
        data = answer if isinstance(answer, bytes) else None
        if data is None:
            text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
            data = text.encode()
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + data)

    def log_message(self, *_: object) -> None:
        pass
