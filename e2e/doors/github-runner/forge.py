"""What a CI system has beside its runners, in one process: token endpoint, issuer of OIDC tokens, public keys of users, and a chat.

Tokens are signed for real (RS256, by openssl), so a real provisioning service accepts them: the issuers are URL/github and URL/gitlab.
"""

import base64
import http.server
import json
import pathlib
import secrets
import ssl
import subprocess
import threading
import time
import urllib.parse


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_keys(folder, host):
    """The key that signs tokens, and for https an authority with a certificate for the host. What is there already stays."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)
    if not (folder / "token.key").exists():
        run("genrsa", "-out", "token.key", "2048")
    if host and not (folder / "tls.crt").exists():
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt",
            "-subj", "/CN=issuer of tests", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=forge")
        (folder / "extensions").write_text(f"subjectAltName=IP:{host}\nbasicConstraints=CA:FALSE\n")
        run("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions", "-out", "tls.crt")
    return folder


def signed(folder, issuer, audience, claims):
    """A token of the issuer, good for five minutes unless the claims say otherwise."""
    now = int(time.time())
    claims = {"iss": issuer, "aud": audience, "iat": now, "nbf": now - 5, "exp": now + 300, "jti": secrets.token_hex(16), **claims}
    text = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT", "kid": "test-1"}, claims))
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", pathlib.Path(folder) / "token.key"], input=text.encode(), check=True, capture_output=True)
    return f"{text}.{encoded(signature.stdout)}"


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):  # a client that went away
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer(self, status, body, kind="application/json", headers=()):
        body = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def misbehave(self, fault):
        """A status; or `hang` until the other end gives up; or `endless`, a body without a length; or an answer."""
        if isinstance(fault, int):
            self.answer(fault, "")
        elif fault == "hang":
            self.close_connection = True
            self.rfile.read(1)
        elif fault == "endless":
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(10 * 1024):
                    self.wfile.write(b"x" * 1023 + b"\n")
            except OSError:
                pass
        else:
            self.answer(*fault)


class Forge:
    """`faults` says for `token`, `keys` and `chat` how they misbehave, see `Handler.misbehave`."""

    def __init__(self, folder, url="http://127.0.0.1:0"):
        place = urllib.parse.urlsplit(url)
        secure = place.scheme == "https"
        self.folder = make_keys(folder, place.hostname if secure else None)
        self.faults, self.users, self.chat, self.issued, self.claims = {}, {}, [], set(), {}
        self.runner_secret = secrets.token_hex(24)
        self.chat_secret = secrets.token_hex(24)
        modulus = subprocess.run(["openssl", "rsa", "-in", self.folder / "token.key", "-noout", "-modulus"], check=True, capture_output=True, text=True)
        number = bytes.fromhex(modulus.stdout.strip().split("=")[1])
        self.jwks = {"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "test-1", "n": encoded(number), "e": "AQAB"}]}
        forge = self

        class Bound(ForgeHandler):
            pass

        Bound.forge = forge
        self.server = Server((place.hostname, place.port or 0), Bound)
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.folder / "tls.crt", self.folder / "tls.key")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{place.scheme}://{place.hostname}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    @property
    def token_url(self):
        return f"{self.url}/token?api-version=2.0"

    @property
    def chat_url(self):
        return f"{self.url}/chat/{self.chat_secret}"

    def token(self, system, audience, claims):
        token = signed(self.folder, f"{self.url}/{system}", audience, claims)
        self.issued.add(token)
        return token


class ForgeHandler(Handler):
    forge = None

    def do_GET(self):
        forge = self.forge
        path, _, query = self.path.partition("?")
        system = path.strip("/").split("/")[0]
        if path.endswith("/.well-known/openid-configuration"):
            issuer = f"{forge.url}/{system}"
            return self.answer(200, {"issuer": issuer, "jwks_uri": f"{issuer}/jwks", "id_token_signing_alg_values_supported": ["RS256"]})
        if path.endswith("/jwks"):
            return self.answer(200, forge.jwks)
        if path == "/token":
            if self.headers.get("authorization") != f"Bearer {forge.runner_secret}":
                return self.answer(401, {"message": "who are you"})
            if "token" in forge.faults:
                return self.misbehave(forge.faults["token"])
            audience = urllib.parse.parse_qs(query)["audience"][0]
            return self.answer(200, {"count": 1, "value": forge.token("github", audience, forge.claims)})
        if path.endswith(".keys"):
            if "keys" in forge.faults:
                return self.misbehave(forge.faults["keys"])
            user = path[1 : -len(".keys")]
            return self.answer(200, forge.users[user], "text/plain") if user in forge.users else self.answer(404, "Not Found", "text/plain")
        return self.answer(404, "")

    def do_POST(self):
        body = self.body()
        if self.path != f"/chat/{self.forge.chat_secret}":
            return self.answer(404, "")
        if "chat" in self.forge.faults:
            return self.misbehave(self.forge.faults["chat"])
        self.forge.chat.append(json.loads(body))
        return self.answer(200, "ok", "text/plain")
