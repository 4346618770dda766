"""Sessions and recoveries out of a Git repository, by the real Flux: what a Kustomization that waits and prunes sees of them, and what
it cannot bring about. Each sentence that is printed was so; the first one that is not ends the run. See e2e/doors/flux.

usage: flux.py STATE-FOLDER [remove MANIFESTS]
"""

import datetime
import json
import shutil
import signal
import sys
import time

import flux_remove
from flux_world import (BOXES, FLUX, FLUX_KINDS, TOP, Controllers, Failed, Flux, Repository, Watch, apply, belongings, condition, fact, get,
                        good, hold, is_true, kubectl, painted, pods_of, run, scratch, until)

APP = "gitops-app"
ROLE = "gitops"
KINDS = {"build": "debugsessions", "machine": "breakglassvms"}


def chapter(number, of, title):
    print(f"{painted(1, f'[{number}/{of}]')} {title}", flush=True)


def utc(seconds):
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Manifests:
    """The two objects, as they lie in Git."""

    def __init__(self, state, folder):
        self.state = state
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", f"{folder}/key")
        with open(f"{folder}/key.pub", encoding="utf-8") as file:
            self.key = file.read().strip()

    def read(self, name):
        with open(f"{self.state}/{name}", encoding="utf-8") as file:
            return file.read().strip()

    def of(self, kind, name, **spec):
        whole = {"apiVersion": "sandglass.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": APP}}
        return {**whole, "spec": {"requester": "alice", "access": {"authorizedKeys": [self.key]}, **spec}}

    def session(self, name, **spec):
        limits = {"cpu": "500m", "memory": "128Mi", "ephemeral-storage": "256Mi"}
        return self.of("DebugSession", name, source={"image": "local.test/ci-build:1"}, resources={"limits": limits}, **spec)

    def recovery(self, name, **spec):
        target = {"address": "10.244.0.250", "user": "breakglass", "hostKeys": [self.read("vm/host_key.pub")]}
        key = {"kv": {"mount": "secret", "path": f"breakglass/{ROLE}", "field": "private_key"}}
        vault = {"address": "https://10.244.0.1:8200", "caBundle": self.read("vault/ca.crt"), "role": ROLE, "targetKey": key}
        return self.of("BreakglassVM", name, target=target, vault=vault, **spec)

    def let_vault_know(self):
        """The machine's key lies in Vault, and the role of these objects may read it and nothing else."""
        bao = lambda *arguments, stdin: run(f"{TOP}/e2e/vault/server", "bao", *arguments, stdin=stdin)
        key = json.dumps({"private_key": self.read("vm/target_key") + "\n"})
        bao("kv", "put", "-mount=secret", f"breakglass/{ROLE}", "-", stdin=key)
        paths = {f"secret/data/breakglass/{ROLE}": "read", "sys/capabilities-self": "update", "auth/token/revoke-self": "update"}
        policy = "".join(f'path "{path}" {{ capabilities = ["{verb}"] }}\n' for path, verb in paths.items())
        bao("policy", "write", ROLE, "-", stdin=policy)
        role = {"bound_service_account_names": [f"{APP}.{ROLE}"], "bound_service_account_namespaces": ["sandglass-vm"], "audience": "vault",
                "token_policies": [ROLE], "token_no_default_policy": True, "token_ttl": "2m", "token_num_uses": 6}
        bao("write", f"auth/kubernetes/role/{ROLE}", "-", stdin=json.dumps(role))


def pair(number=1):
    """Both objects of a number, as the cluster has them."""
    return {name: get(kind, f"{name}-{number}", APP) for name, kind in KINDS.items()}


def told(item):
    conditions = (item or {}).get("status", {}).get("conditions", [])
    return " / ".join(f"{one['type']}={one['status']} {one['reason']}: {one['message']}" for one in conditions)


def over(item):
    """It has ended, and nothing of it is left."""
    return item and item.get("status", {}).get("endedAt") and is_true(item, "Ready")


class Story:
    """The chapters, and what they share."""

    def __init__(self, world):
        self.world = world
        self.flux = None
        self.first = {}
        self.since_ready = 0

    def before_it_opens(self):
        world = self.world
        blocker = world.manifests.session("before", ttl="5m")
        apply(blocker)
        kubectl("wait", "--for=condition=Open", "debugsession/before", "-n", APP, "--timeout=60s")
        self.not_after = utc(110)
        self.files = {
            "app/build.yaml": world.manifests.session("build-1", ttl="90s", notAfter=self.not_after, reason="the linker fails"),
            "app/machine.yaml": world.manifests.recovery("machine-1", ttl="90s", notAfter=self.not_after, reason="disk full"),
        }
        self.commit = world.repository.commit("A session and a recovery", self.files)
        self.flux = Flux(world.repository, "app", "./app")
        until("Flux to wait for the objects", lambda: "Running health checks" in self.flux.said(), 30, self.flux.said)
        busy = lambda: condition(pair()["build"], "Open")["reason"] == "ProjectBusy"
        until("build-1 to wait for its turn", busy, 20, lambda: told(pair()["build"]))
        # A look every 0.2 seconds for four seconds, in which it may not be ready.
        end = time.monotonic() + 4
        until("the end of four seconds", lambda: hold(not is_true(self.flux.get(), "Ready"), self.flux.said) or time.monotonic() > end, 10)
        hold(busy(), lambda: told(pair()["build"]))
        good(f"not healthy before it opens: {condition(self.flux.get(), 'Healthy')['message'].split(' for ')[0]}")
        kubectl("patch", "debugsession", "before", "-n", APP, "--type=merge", "-p", '{"spec":{"end":true}}')
        ready = self.flux.ready_at(self.commit)
        self.since_ready = time.monotonic()
        self.first = pair()
        for name, item in self.first.items():
            hold(is_true(item, "Open"), f"Flux is ready, and {name} is not open: {told(item)}")
            opened, told_ready = (condition(one, kind)["lastTransitionTime"] for one, kind in ((item, "Open"), (ready, "Ready")))
            hold(opened <= told_ready, f"{name} opened at {opened}, Flux was ready at {told_ready}")
        kubectl("delete", "debugsession", "before", "-n", APP, "--timeout=60s")
        good("healthy as soon as both kinds are open")

    def changed(self):
        files = {name: {**item, "spec": {**item["spec"], "reason": "another reason"}} for name, item in self.files.items()}
        self.world.repository.commit("Another reason", files)
        self.flux.ask(FLUX_KINDS[1])
        words = "spec.reason is immutable: create another"

        def refused():
            ready = condition(self.flux.get(), "Ready")
            return ready["status"] == "False" and words in ready["message"] and ready

        ready, now = until("the change to be refused", refused, 40, self.flux.said), pair()
        hold(ready["reason"] == "ReconciliationFailed", ready)
        for name, item in now.items():
            before = self.first[name]
            same = all(item["metadata"][field] == before["metadata"][field] for field in ("uid", "generation"))
            hold(same and item["spec"] == before["spec"] and is_true(item, "Open"), f"{name} changed: {json.dumps(item['spec'])} {told(item)}")
        good(f"a changed immutable field is reported: {ready['reason']}: {ready['message'].split(': ', 1)[-1][:150].strip()}")
        good("and changes nothing: same objects, same generation, still open")
        self.commit = self.world.repository.commit("The first reason again", self.files)
        self.since_ready = self.flux.ready_at(self.commit) and time.monotonic()

    def through_expiry(self):
        self.flux.apply_again(3)
        until("both to be over", lambda: all(over(item) for item in pair().values()), 150, lambda: [told(item) for item in pair().values()])
        ended = pair()
        self.flux.apply_again(7)
        now = pair()
        for name, item in now.items():
            hold(item["status"]["endReason"] == "Expired", told(item))
            same = all(item["metadata"][field] == ended[name]["metadata"][field] for field in ("uid", "generation", "resourceVersion"))
            hold(same and item["metadata"]["uid"] == self.first[name]["metadata"]["uid"], f"{name} was written: {item['metadata']}")
        meanwhile = [item for moment, _, item in self.world.kustomizations.events() if moment >= self.since_ready]
        hold(len(meanwhile) >= 10, f"ten runs were seen {len(meanwhile)} times only")
        for one in [condition(item, kind) for item in meanwhile for kind in ("Ready", "Healthy")]:
            hold(one["status"] != "False", f"it was not healthy in between: {one}")
        good(f"stays ready through expiry: {told(now['build'])}")
        for name, item in now.items():
            pods = pods_of(self.world.pods, item["metadata"]["uid"])
            hold(len(pods) == 1, f"{name} had {len(pods)} pods")
        good("re-applied ten times, three of them open and seven ended: exactly one pod each, ever; an ended object is not even written")

    def nothing_opens(self, what):
        """The objects that stand there now were made anew, too late, and stay closed."""
        known = {item["metadata"]["uid"] for item in self.known}
        both = lambda: [told(item) for item in pair().values()]
        now = until("new objects that are over", lambda: all(over(item) for item in pair().values()) and pair(), 40, both)
        self.flux.apply_again(2)
        for name, item in now.items():
            hold(item["metadata"]["uid"] not in known, f"{name} was not created anew")
            status = item["status"]
            hold(status["endReason"] == "Expired" and "pod" not in status and "startedAt" not in status, f"{name}: {status}")
            hold(not pods_of(self.world.pods, item["metadata"]["uid"]), f"{name} got a pod")
        self.known += now.values()
        good(f"{what} opens nothing: new objects, no pod ever, {told(now['machine']).split(' / ')[1]}")

    def too_late(self):
        self.known = list(self.first.values())
        until("notAfter", lambda: utc(0) > self.not_after, 90)
        force = {"annotations": {"kustomize.toolkit.fluxcd.io/force": "enabled"}}
        by_force = lambda item: {**item, "metadata": {**item["metadata"], **force}, "spec": {**item["spec"], "reason": "forced"}}
        forced = {name: by_force(item) for name, item in self.files.items()}
        self.flux.ready_at(self.world.repository.commit("By force", forced))
        self.nothing_opens("force, which deletes and creates again,")
        nothing = {**dict.fromkeys(self.files), "app/kustomization.yaml": "resources: []\n"}
        self.flux.ready_at(self.world.repository.commit("Not any more", nothing))
        until("both to be pruned", lambda: not any(pair().values()), 40)
        self.flux.ready_at(self.world.repository.commit("Restored", {**self.files, "app/kustomization.yaml": None}))
        self.nothing_opens("a restored manifest past notAfter")

    def stalled(self):
        refused = self.world.manifests.session("refused-1", ttl="10m", project="other")
        refused["spec"]["source"]["image"] = "registry.example.com/not-allowed:1"
        began = time.monotonic()
        self.world.repository.commit("An image that is not allowed", {"app/refused.yaml": refused})
        self.flux.ask(FLUX_KINDS[1])
        until("the health check to fail", lambda: condition(self.flux.get(), "Ready")["reason"] == "HealthCheckFailed", 60, self.flux.said)
        # Its time-out is 90 seconds.
        hold(time.monotonic() - began < 45, f"it took {time.monotonic() - began:.0f} s")
        item = get("debugsessions", "refused-1", APP)
        hold(condition(item, "Stalled")["reason"] == "ImageNotAllowed", told(item))
        good(f"fails at once where a human is needed: {condition(self.flux.get(), 'Ready')['message'][:150]}")
        self.flux.ready_at(self.world.repository.commit("Without it", {"app/refused.yaml": None}))

    def by_hand(self):
        world = self.world
        build = world.manifests.session("build-2", ttl="10m")
        merged = {**build, "metadata": {**build["metadata"], "annotations": {"kustomize.toolkit.fluxcd.io/ssa": "Merge"}}}
        self.flux.ready_at(world.repository.commit("Two others", {
            "app/build.yaml": merged,
            "app/machine.yaml": world.manifests.recovery("machine-2", ttl="10m"),
        }))
        hold(all(is_true(item, "Open") for item in pair(2).values()), lambda: [told(item) for item in pair(2).values()])
        until("the first two to be pruned", lambda: not any(pair().values()), 30)
        kubectl("patch", "debugsession", "build-2", "-n", APP, "--type=merge", "-p", '{"spec":{"end":true}}')
        until("build-2 to be over", lambda: over(pair(2)["build"]), 40, lambda: told(pair(2)["build"]))
        self.flux.apply_again(2)
        self.stayed_ended()
        good("ended by kubectl it stays ended, and Flux stays ready: the object has ssa: Merge")
        world.repository.commit("Flux may undo what kubectl did", {"app/build.yaml": build})
        self.flux.ask(FLUX_KINDS[1])
        words = "spec.end may only go from false to true"
        until("the change to be refused", lambda: words in condition(self.flux.get(), "Ready")["message"], 40, self.flux.said)
        self.stayed_ended()
        good(f"without that Flux would open it again, and is refused: {words}")
        ended = {**build, "spec": {**build["spec"], "end": True}}
        self.flux.ready_at(world.repository.commit("It has ended", {"app/build.yaml": ended}))
        self.stayed_ended()
        good("spec.end: true in Git makes it ready again")

    def stayed_ended(self):
        item = pair(2)["build"]
        hold(item["status"]["endReason"] == "EndRequested" and item["spec"]["end"], told(item))
        hold(len(pods_of(self.world.pods, item["metadata"]["uid"])) == 1, "it got another pod")

    def pruned(self):
        hold(is_true(pair(2)["machine"], "Open") and belongings(APP), "machine-2 is not open, or nothing belongs to it")
        fact(f"there now: {', '.join(belongings(APP))}")
        nothing = {"app/build.yaml": None, "app/machine.yaml": None, "app/kustomization.yaml": "resources: []\n"}
        self.flux.ready_at(self.world.repository.commit("Nothing any more", nothing))
        until("nothing to be left", lambda: not any(pair(2).values()) and not belongings(APP), 60, lambda: belongings(APP))
        left = [f"{kind}/{item['metadata']['name']}" for kind in KINDS.values() for item in get(kind, namespace=APP)]
        hold(not left, left)
        good("prune leaves nothing: no object, pod, ServiceAccount or policy, of the open recovery neither")


class World:
    """Everything a story needs; what it put up it takes down."""

    def __init__(self):
        self.folder = scratch()
        self.watches, self.controllers, self.repository = [], None, None

    def open(self, state):
        self.manifests = Manifests(state, self.folder)
        for namespace in (APP, FLUX):
            kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=60s")
        self.controllers = Controllers(self.folder)
        for namespace in (APP, FLUX):
            kubectl("create", "namespace", namespace)
        self.manifests.let_vault_know()
        self.repository = Repository(self.folder)
        self.pods = [self.watch("pods", "-n", box) for box in BOXES]
        self.kustomizations = self.watch(FLUX_KINDS[0], "-n", FLUX)
        self.controllers.start()

    def watch(self, kind, *arguments):
        self.watches.append(Watch(kind, *arguments))
        return self.watches[-1]

    def close(self, app_too=True):
        """Flux' objects first, while somebody takes their finalizers off; by force where nobody does."""
        for kind in FLUX_KINDS:
            names = kubectl("get", kind, "-n", FLUX, "-o", "name", check=False).split()
            if names and self.controllers and self.controllers.alive():
                kubectl("delete", *names, "-n", FLUX, "--ignore-not-found", "--timeout=100s", check=False)
            for name in kubectl("get", kind, "-n", FLUX, "-o", "name", check=False).split():
                kubectl("patch", name, "-n", FLUX, "--type=merge", "-p", '{"metadata":{"finalizers":null}}', check=False)
        for watch in self.watches:
            watch.stop()
        if self.controllers:
            self.controllers.stop()
        if self.repository:
            self.repository.close()
        for namespace in [FLUX] + [APP] * app_too:
            kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=100s", check=False)
        kinds = [name for name in kubectl("get", "crd", "-o", "name").split() if name.endswith(".toolkit.fluxcd.io")]
        if kinds:
            kubectl("delete", *kinds, "--ignore-not-found", "--timeout=60s", check=False)
        secret = ("kv", "metadata", "delete", "-mount=secret", f"breakglass/{ROLE}")
        for command in (("policy", "delete", ROLE), ("delete", f"auth/kubernetes/role/{ROLE}"), secret):
            run(f"{TOP}/e2e/vault/server", "bao", *command, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def chapters(world, arguments):
    if arguments:
        removal = flux_remove.Removal(world, arguments[1], APP)
        return removal, [("Flux takes over the installation, and brings a session and a recovery", removal.install),
                         ("operator and objects are removed together", removal.remove)]
    story = Story(world)
    return story, [
        ("before and after it opens", story.before_it_opens),
        ("somebody changes what cannot be changed", story.changed),
        ("through expiry, again and again", story.through_expiry),
        ("too late", story.too_late),
        ("a human is needed", story.stalled),
        ("ended by hand", story.by_hand),
        ("out of the repository", story.pruned),
    ]


def main(state, *arguments):
    began, world, story, code = time.monotonic(), World(), None, 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print("bringing up Flux' controllers and a Git server", flush=True)
        world.open(state)
        story, parts = chapters(world, arguments)
        for number, (title, part) in enumerate(parts, 1):
            chapter(number, len(parts), title)
            part()
        code = 0
    except Failed as failed:
        print(painted(31, f"      not so: {failed}"), flush=True)
        for kind in KINDS.values():
            for item in json.loads(kubectl("get", kind, "-n", APP, "-o", "json", check=False) or '{"items":[]}')["items"]:
                fact(f"{kind}/{item['metadata']['name']}: {told(item) or 'no status'}")
        print(world.controllers.last_words() if world.controllers else "", flush=True)
    finally:
        try:
            if isinstance(story, flux_remove.Removal):
                story.put_back()
        finally:
            world.close()
    print(f"{'done' if code == 0 else 'failed'} after {time.monotonic() - began:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
