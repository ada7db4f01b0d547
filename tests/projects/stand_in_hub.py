"""A web server that speaks as much of the hub's language as downloads need, with switches for things that go wrong."""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


@dataclass
class StandInHub:
    """Files by "REPOSITORY/NAME"; `large` ones are redirected to another address and have a SHA-256, as on the hub.

    Attributes:
        drop_after: cut the connection after so many bytes of a body, once.
        broken_ranges: answer requests for the rest of a file with an error.
        bodies: (path, Range header or None) of every body that was sent or begun.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    plain: dict[str, bytes] = field(default_factory=dict)
    hash_of: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    broken_ranges: bool = False
    bodies: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def __enter__(self) -> "StandInHub":
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.storage = f"http://localhost:{self.server.server_address[1]}"  # large files come from another host
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = request.path.lstrip("/"), request.headers.get("Range")
        if path.startswith("storage/"):
            return self.send(request, self.files[path.removeprefix("storage/")], wanted)
        if path in self.plain:
            return self.send(request, self.plain[path], wanted)
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        key = f"{repository}/{name}"
        if key not in self.files or revision not in ("main", COMMIT):
            known = any(k.rsplit("/", 1)[0] == repository for k in self.files)
            return self.refuse(request, 404, "EntryNotFound" if known else "RepoNotFound")
        content = self.files[key]
        headers = {"X-Repo-Commit": COMMIT}
        if key not in self.large:
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            return self.send(request, content, wanted, {**headers, "ETag": f'"{self.hash_of.get(key, blob)}"'})
        digest = self.hash_of.get(key, hashlib.sha256(content).hexdigest())
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "ETag": '"of-the-redirect"'}
        request.send_response(302)
        for item in {**headers, "Location": f"{self.storage}/storage/{key}", "Content-Length": "0"}.items():
            request.send_header(*item)
        request.end_headers()

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def send(self, request, content: bytes, wanted: str | None, headers: dict[str, str] | None = None) -> None:
        if wanted and self.broken_ranges:
            return self.refuse(request, 500, "Broken")
        begin = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        request.send_response(206 if wanted else 200)
        if wanted:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        for item in {**(headers or {}), "Content-Length": str(len(content) - begin)}.items():
            request.send_header(*item)
        request.end_headers()
        if request.command == "HEAD":
            return
        self.bodies.append((request.path, wanted))
        if self.drop_after is not None and len(content) - begin > self.drop_after:
            end, self.drop_after = begin + self.drop_after, None
            request.wfile.write(content[begin:end])
            request.wfile.flush()
            request.close_connection = True
            return
        request.wfile.write(content[begin:])
