"""A dataset hub with one dataset, over real HTTP: as much of the protocol as streaming a dataset needs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "5ea" + 37 * "0"


@contextmanager
def serve(dataset: str, files: dict[str, bytes]) -> Iterator[str]:
    """Serve the files of a dataset, named `<folder>/<file>`, on its branch `main`; give the hub's address."""
    handler = type("Handler", (_Handler,), {"dataset": dataset, "files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    dataset: str
    files: dict[str, bytes]

    def log_message(self, *_) -> None:
        pass

    def answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        api, resolve = f"/api/datasets/{self.dataset}", f"/datasets/{self.dataset}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            self.send_json({"id": self.dataset, "sha": COMMIT, "siblings": [{"rfilename": f} for f in self.files]})
        elif path.startswith(f"{api}/tree/"):
            self.send_json(self.tree(path.removeprefix(f"{api}/tree/").partition("/")[2]))
        elif path.startswith(f"{api}/paths-info/"):
            self.send_json([self.entry(file) for file in parse_qs(sent.decode())["paths"] if file in self.files])
        elif path.startswith(resolve) and (file := path.removeprefix(resolve).partition("/")[2]) in self.files:
            self.send_file(self.files[file])
        else:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def tree(self, folder: str) -> list[dict]:
        if folder:
            return [self.entry(file) for file in self.files if file.startswith(f"{folder}/")]
        folders = sorted({file.split("/")[0] for file in self.files})
        return [{"type": "directory", "path": name, "oid": COMMIT, "size": 0} for name in folders]

    def entry(self, file: str) -> dict:
        return {"type": "file", "path": file, "size": len(self.files[file]), "oid": COMMIT}

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {})

    def send_file(self, data: bytes) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            return self.send(200, data, {"ETag": '"1"'})
        first, last = asked.removeprefix("bytes=").split("-")
        start, stop = int(first), int(last) + 1 if last else len(data)
        return self.send(206, data[start:stop], {"ETag": '"1"', "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
