"""The little of an API server that `sandglass gateway` needs, with one open session in it: so that the shipped program is
measured, with its watches and its reports, and without a cluster.

A process of its own (python3 api.py SESSION.json TOKEN POD-UID), so that it does not disturb the measuring one. Prints its
port and runs until standard input closes.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SESSIONS = "/apis/sandglass.dev/v1alpha1/debugsessions"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/sandglass-system/endpointslices"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
AUDIENCE = "sandglass-gateway"
POD_UID_KEY = "authentication.kubernetes.io/pod-uid"


def merged(target, changes):
    """RFC 7396."""
    if not isinstance(changes, dict):
        return changes
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class Store:
    """One session and its version."""

    def __init__(self, session):
        self.changed = threading.Condition()
        self.version = 1
        self.session = session
        self.session["metadata"]["resourceVersion"] = "1"

    def patch_status(self, changes):
        with self.changed:
            self.version += 1
            metadata = {**self.session["metadata"], "resourceVersion": str(self.version)}
            status = merged(self.session.get("status"), changes.get("status", {}))
            self.session = {**self.session, "metadata": metadata, "status": status}
            self.changed.notify_all()
            return self.session

    def after(self, version, limit):
        """The session once it is newer than `version`; None after `limit` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version > version, timeout=limit)
            return self.session if self.version > version else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave together
    store = None
    token = ""
    pod_uid = ""

    def log_message(self, *_):
        pass

    def answer(self, value, code=200):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def body(self):
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if url.path in (SESSIONS, SLICES):
            if query.get("watch") in ("true", "1"):
                self.watch(url.path == SESSIONS, query)
            else:
                self.list(url.path == SESSIONS)
        elif url.path == self.object_path():
            self.answer(self.store.session)
        else:
            self.not_found()

    def do_POST(self):
        review = self.body()
        if urlsplit(self.path).path != REVIEWS:
            self.not_found()
            return
        valid = review["spec"].get("token") == self.token
        user = {"username": "system:serviceaccount:sandglass-debug:sandglass-debug", "extra": {POD_UID_KEY: [self.pod_uid]}}
        review["status"] = {"authenticated": valid, **({"user": user, "audiences": [AUDIENCE]} if valid else {})}
        self.answer(review, 201)

    def do_PATCH(self):
        changes = self.body()
        if urlsplit(self.path).path == self.object_path() + "/status":
            self.answer(self.store.patch_status(changes))
        else:
            self.not_found()

    def object_path(self):
        metadata = self.store.session["metadata"]
        return f"/apis/sandglass.dev/v1alpha1/namespaces/{metadata['namespace']}/debugsessions/{metadata['name']}"

    def not_found(self):
        self.answer({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": self.path, "code": 404}, 404)

    def list(self, of_sessions):
        version, session = self.store.version, self.store.session
        kind = ("DebugSessionList", "sandglass.dev/v1alpha1") if of_sessions else ("EndpointSliceList", "discovery.k8s.io/v1")
        items = [session] if of_sessions else []
        self.answer({"kind": kind[0], "apiVersion": kind[1], "metadata": {"resourceVersion": str(version)}, "items": items})

    def watch(self, of_sessions, query):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        version = int(query.get("resourceVersion") or 0)
        end = time.monotonic() + float(query.get("timeoutSeconds", 290))
        while (left := end - time.monotonic()) > 0:
            if not of_sessions:
                time.sleep(left)
                break
            session = self.store.after(version, left)
            if session is not None:
                version = int(session["metadata"]["resourceVersion"])
                self.chunk(json.dumps({"type": "MODIFIED", "object": session}).encode() + b"\n")
        self.chunk(b"")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        Handler.store = Store(json.load(file))
    Handler.token, Handler.pod_uid = sys.argv[2:4]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
