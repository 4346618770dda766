"""A stand-in for the provisioning service, as strict as its contract: docs/provisioning.md. For tests without a cluster."""

import base64
import hashlib
import json
import re
import threading

from forge import Handler, Server

FIELDS = {"image": str, "job": str, "authorizedKeys": list, "principals": list, "allow": list, "env": list, "workingDir": str, "ttl": str, "reason": str,
          "network": str, "commit": str, "pullRequest": str, "url": str}
KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com) AAAA[A-Za-z0-9+/=]+( \S+)?")
OPEN = {"phase": "Open", "open": True, "reason": "Open", "message": "the session is open"}
WAITING = {"phase": "Waiting", "open": False, "reason": "ProjectBusy", "message": "waits for ci/other of the same project"}
STARTING = {"phase": "Starting", "open": False, "reason": "Starting", "message": "the image is being pulled"}


class Service:
    """`first`: answers that come before any other, each (status, body[, type[, headers]]). `states`: what a session goes through, one look each; the last stays.
    `repository`: the only one that has a rule."""

    def __init__(self, forge, states=(WAITING, STARTING, OPEN), first=(), looks=(), repository="acme/widget", extra=None):
        self.forge, self.states, self.first, self.looks, self.repository, self.extra = forge, list(states), list(first), list(looks), repository, extra or {}
        self.sessions, self.orders, self.requests, self.lock = {}, [], [], threading.Lock()

        class Bound(ServiceHandler):
            service = self

        self.server = Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def claims(self, header):
        """Of a token that the forge gave for this service."""
        scheme, _, token = (header or "").partition(" ")
        if scheme != "Bearer" or token not in self.forge.issued:
            return None
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        return claims if claims["aud"] == "sandglass" else None

    def faults(self, order):
        if unknown := set(order) - set(FIELDS):
            return f"unknown field {sorted(unknown)[0]}"
        for name, value in order.items():
            if type(value) is not FIELDS[name]:
                return f"{name} is of another type"
        if not order.get("image") or not order.get("job"):
            return "image and job are required"
        if not order.get("authorizedKeys") and not order.get("principals"):
            return "give authorizedKeys or principals"
        if bad := [key for key in order.get("authorizedKeys", []) if not KEY.fullmatch(key)]:
            return f"authorizedKeys has {len(bad)} lines that are no public key"
        if set(order.get("allow", [])) - {"Sftp", "LocalForward", "AgentForward"}:
            return "allow has an unknown value"
        if any(set(item) != {"name", "value"} or not all(type(word) is str for word in item.values()) for item in order.get("env", [])):
            return "env is a list of name and value"
        if len({item["name"] for item in order.get("env", [])}) != len(order.get("env", [])):
            return "env names a variable twice"
        if not order.get("workingDir", "/").startswith("/"):
            return "workingDir must begin with /"
        return None if re.fullmatch(r"([1-9][0-9]*[hms])+", order.get("ttl", "30m")) else "ttl is not a time"

    def name(self, claims, job):
        run = [claims.get("run_id") or claims.get("pipeline_id"), claims.get("run_attempt") or claims.get("job_id")]
        origin = [claims["iss"], claims.get("repository_id") or claims.get("project_id"), *run, job]
        return "widget-" + hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:16]

    def told(self, name):
        session = self.sessions[name]
        state = session["states"][0]
        if len(session["states"]) > 1:
            session["states"].pop(0)
        known = "[debug.example.com]:2222 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHostKeyHostKeyHostKeyHostKeyHostKeyHostKeyAA"
        connection = {"host": "debug.example.com", "port": 2222, "user": f"ci.{name}", "command": f"ssh -p 2222 ci.{name}@debug.example.com", "knownHosts": [known]}
        return {"namespace": "ci", "name": name, "ended": False, "stalled": False, "requester": session["requester"], "expiresAt": "2030-01-02T03:04:05Z",
                "connection": connection, "strippedEnv": ["NPM_TOKEN", "DSN"], **state, **self.extra}


class ServiceHandler(Handler):
    service = None

    def problem(self, status, detail, **more):
        headers = {"retry-after": more.pop("retry_after")} if "retry_after" in more else {}
        self.answer(status, {"type": "about:blank", "title": "Refused", "status": status, "detail": detail, **more}, "application/problem+json", headers)

    def scripted(self, answers):
        if not answers:
            return False
        answer = answers.pop(0)
        if callable(answer):
            answer(self)
        else:
            self.misbehave(answer)
        return True

    def do_POST(self):
        service, body = self.service, self.body()
        with service.lock:
            service.requests.append(("POST", self.path))
            if self.scripted(service.first):
                return None
            claims = service.claims(self.headers.get("authorization"))
            if self.path != "/v1/debugsessions":
                return self.problem(404, "there is nothing here")
            if claims is None:
                return self.problem(401, "the token is of another audience: ask for audience sandglass")
            order = json.loads(body)
            if fault := service.faults(order):
                return self.problem(422, fault)
            if (claims.get("repository") or claims.get("project_path")) != service.repository:
                looked = {name: claims.get(name) for name in ("repository", "ref", "actor", "project_path", "environment")}
                return self.problem(403, "no rule matches these claims", claims=looked)
            name = service.name(claims, order["job"])
            there = name in service.sessions
            if not order["image"].startswith("registry.example.com/"):
                return self.problem(403, f"image {order['image']} is not allowed here: allowed is registry.example.com/")
            if not there:
                service.orders.append(order)
                service.sessions[name] = {"states": list(service.states), "requester": claims.get("actor") or claims.get("user_login"), "owner": claims["iss"]}
            return self.answer(200 if there else 201, service.told(name))

    def do_GET(self):
        service = self.service
        with service.lock:
            service.requests.append(("GET", self.path))
            if self.scripted(service.looks):
                return None
            claims = service.claims(self.headers.get("authorization"))
            if claims is None:
                return self.problem(401, "the token has expired")
            parts = self.path.split("/")
            if parts[:4] != ["", "v1", "debugsessions", "ci"] or parts[4] not in service.sessions:
                return self.problem(404, "there is no such session, or not for you")
            return self.answer(200, service.told(parts[4]))
