"""A Prometheus of our own beside the test cluster, and what stands in for its Alertmanager. Runs inside e2e/cluster/enter."""

import base64
import http.server
import json
import pathlib
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from monitoring_dashboard import FOLDER

# `for` and the windows of the shipped rules, divided; limits stay as they are.
FASTER = 20
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Failed(Exception):
    """What should be so and is not; the message says what was seen instead."""


def until(what, check, seconds, seen=None):
    """Waits until `check` returns something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s in vain for: {what}" + (f"\nseen: {seen()}" if seen else ""))
        time.sleep(0.2)


def kubectl(*arguments, stdin=None):
    done = subprocess.run(["kubectl", "--request-timeout=20s", *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise Failed(f"kubectl {' '.join(arguments[:4])}: exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def faster_rules():
    """rules.yaml, FASTER times as fast."""

    def shorter(match):
        return f"{match.group(1)}{max(1, round(int(match.group(2)) * SECONDS[match.group(3)] / FASTER))}s{match.group(4)}"

    text = (FOLDER / "rules.yaml").read_text()
    text = re.sub(r"^( *for: )(\d+)([smhd])()$", shorter, text, flags=re.MULTILINE)
    text = re.sub(r"(\[)(\d+)([smhd])(\])", shorter, text)
    return re.sub(r"( offset )(\d+)([smhd])()\b", shorter, text)


class Alertmanager:
    """Takes alerts as Alertmanager's API does, and remembers them."""

    def __init__(self):
        self.alerts = received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802  # the name that http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/api/v2/alerts":
                    received.extend(json.loads(body))
                self.send_response(200 if self.path == "/api/v2/alerts" else 404)
                self.end_headers()

            def log_message(self, *_):
                """Nothing: the alerts themselves are looked at."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def received(self, name, over):
        """Alerts called `name` whose end is past, or is not."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        return [alert for alert in list(self.alerts) if alert["labels"]["alertname"] == name and (alert["endsAt"][:19] <= now) == over]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def api_server(folder):
    """Where the API server is, and as whom Prometheus asks it: the files that its configuration names."""
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    settings = {"ca_file": cluster.get("certificate-authority-data"), "cert_file": user.get("client-certificate-data"), "key_file": user.get("client-key-data")}
    tls = {}
    for name, data in settings.items():
        if data:
            (folder / name).write_bytes(base64.b64decode(data))
            tls[name] = str(folder / name)
    access = {"tls_config": tls}
    if user.get("token"):
        access["authorization"] = {"credentials": user["token"]}
    return urllib.parse.urlsplit(cluster["server"]).netloc, access


def replicas():
    """The running pods that podmonitor.yaml selects, as targets. Debian's Prometheus has no part that finds them by itself."""
    pods = json.loads(kubectl("get", "pods", "-n", "sandglass-system", "-l", "app.kubernetes.io/name=sandglass", "-o", "json"))["items"]
    groups = []
    for pod in pods:
        for container in pod["spec"]["containers"]:
            ports = [port["containerPort"] for port in container.get("ports", []) if port.get("name") == "health"]
            if ports and pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]:
                labels = {"namespace": "sandglass-system", "pod": pod["metadata"]["name"], "container": container["name"]}
                groups.append({"targets": [f"{pod['status']['podIP']}:{ports[0]}"], "labels": labels})
    return groups


def configuration(folder, alertmanager):
    """As podmonitor.yaml lets the Prometheus Operator write it; and the kubelet's cAdvisor, through the API server."""
    host, access = api_server(folder)
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    return {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": "sandglass-system/sandglass", "static_configs": replicas()},
            {
                "job_name": "cadvisor",
                "scheme": "https",
                "scrape_interval": "5s",
                "scrape_timeout": "5s",
                "metrics_path": f"/api/v1/nodes/{node}/proxy/metrics/cadvisor",
                "static_configs": [{"targets": [host]}],
                "metric_relabel_configs": [{"source_labels": ["namespace"], "regex": "sandglass-system", "action": "keep"}],
                **access,
            },
        ],
    }


class Prometheus:
    """The real one, in the cluster's network, with an empty store."""

    def __init__(self, programs, folder, alertmanager):
        self.folder = pathlib.Path(folder)
        (self.folder / "rules.yaml").write_text(faster_rules())
        settings = self.folder / "prometheus.yaml"
        settings.write_text(json.dumps(configuration(self.folder, alertmanager)))
        checked = subprocess.run([f"{programs}/promtool", "check", "config", settings], capture_output=True, text=True, timeout=60, check=False)
        if checked.returncode:
            raise Failed(f"promtool refuses the configuration: {checked.stdout}{checked.stderr}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        flags = [f"--config.file={settings}", f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        self.log = self.folder / "prometheus.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([f"{programs}/prometheus", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ready(self):
        if self.process.poll() is not None:
            raise Failed(f"Prometheus has ended: {self.log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self.base}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, path, **parameters):
        """What its API answers to /api/v1/`path`."""
        with urllib.request.urlopen(f"{self.base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, expression):
        """The samples of an instant query that are numbers."""
        result = self.ask("query", query=expression)["result"]
        return [sample for sample in result if sample["value"][1] != "NaN"]

    def targets(self):
        return self.ask("targets", state="active")["activeTargets"]

    def alerts(self, name):
        return [alert for alert in self.ask("alerts")["alerts"] if alert["labels"]["alertname"] == name and alert["state"] == "firing"]

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
