"""Operator and objects in one Kustomization, deleted together: nothing may be left of either. And the installation put back."""

import json

from flux_world import BOXES, FLUX, FLUX_KINDS, TOP, Failed, Flux, apply, condition, fact, get, good, hold, is_true, kubectl, until

SYSTEM = "sandglass-system"
OWN_NAMESPACES = (SYSTEM, *BOXES)
# Made at the installation, by the Job of the keys or by an administrator, and in no manifest.
KEPT = ("secrets", "configmaps")

# While a policy with parameters stands, the API server reads ConfigMaps for it. Once none is left, Kubernetes 1.36 does not begin to
# read them again before it is restarted: the policies that are put back would find no parameters, and refuse everything.
GUARD = [
    {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "gitops-parameters"},
        "spec": {
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["gitops.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothing"]}]},
            "validations": [{"expression": "true"}],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "gitops-parameters"},
        "spec": {
            "policyName": "gitops-parameters", "validationActions": ["Deny"],
            "paramRef": {"name": "kube-root-ca.crt", "namespace": "default", "parameterNotFoundAction": "Allow"},
        },
    },
]


def in_force():
    """Whether the admission policies refuse a pod, by their rule and with their parameters."""
    with open(f"{TOP}/e2e/admission/pod.yaml", encoding="utf-8") as file:
        endless = "".join(line for line in file if "activeDeadlineSeconds" not in line)
    try:
        kubectl("create", "-n", "sandglass-debug", "--dry-run=server", "-f", "-", stdin=endless)
    except Failed as refused:
        return "activeDeadlineSeconds must be between 1 and" in str(refused)
    return False


def everything():
    """Everything in the cluster whose name or namespace has to do with Sandglass, and every object of its kinds: (kind, namespace, name)."""
    found = []
    for kind in sorted(set(kubectl("api-resources", "--verbs=list", "-o", "name").split())):
        if kind in ("events", "events.events.k8s.io", "componentstatuses"):
            continue
        names = kubectl("get", kind, "-A", "-o", "custom-columns=:metadata.namespace,:metadata.name", "--no-headers", check=False)
        items = [(kind, *line.split()) for line in names.splitlines()]
        found += [item for item in items if "sandglass" in f"{item[1]} {item[2]}" or kind.endswith(".sandglass.dev")]
    return found


class Removal:
    """The two chapters, and the way back."""

    def __init__(self, world, manifests, app):
        self.world, self.app, self.flux = world, app, None
        with open(manifests, encoding="utf-8") as file:
            self.manifests = file.read()
        hold("kind: CustomResourceDefinition" in self.manifests, f"{manifests} lacks the kinds")
        # Kept in memory only, for the way back.
        self.kept = [self._bare(item) for kind in KEPT for item in get(kind, namespace=SYSTEM) if self._is_own(item)]
        hold(any(item["metadata"]["name"] == "sandglass-gateway-keys" for item in self.kept), "the installation has no keys")

    @staticmethod
    def _is_own(item):
        return item["metadata"]["name"].startswith("sandglass-") and not item.get("type", "").startswith("kubernetes.io/")

    @staticmethod
    def _bare(item):
        metadata = {field: item["metadata"][field] for field in ("name", "namespace", "labels", "annotations") if field in item["metadata"]}
        return {**{field: value for field, value in item.items() if field != "metadata"}, "metadata": metadata}

    def install(self):
        manifests, repository = self.world.manifests, self.world.repository
        commit = repository.commit("All of it", {
            "app/sandglass.yaml": self.manifests,
            "app/build.yaml": manifests.session("build-1", ttl="10m"),
            "app/machine.yaml": manifests.recovery("machine-1", ttl="10m"),
        })
        apply(*GUARD)
        until("the policies to know their parameters", in_force, 20)
        self.flux = Flux(repository, "app", "./app")
        self.flux.ready_at(commit, 120)
        for kind, name in (("debugsessions", "build-1"), ("breakglassvms", "machine-1")):
            item = get(kind, name, self.app)
            hold(is_true(item, "Open"), f"{name} is not open: {condition(item, 'Open')}")
        count = len(self.flux.get()["status"]["inventory"]["entries"])
        good(f"kinds, operator, a session and a recovery in one Kustomization, all healthy: {count} objects")

    def remove(self):
        taken = {tuple(entry["id"].split("_")[:2]) for entry in self.flux.get()["status"]["inventory"]["entries"]}
        there = everything()
        # What others made in namespaces of their own and is only named after Sandglass.
        foreign = {item for item in there if item[1] not in (*OWN_NAMESPACES, self.app, "<none>") and item[1:] not in taken}
        fact(f"there now: {len(there) - len(foreign)} objects of Sandglass, and {len(foreign)} of others with its name")
        self.flux.delete()
        left = lambda: [" ".join(item) for item in everything() if item not in foreign]
        until("nothing of Sandglass to be left", lambda: not left(), 120, lambda: "\n".join(left()))
        good("operator and objects removed together leave nothing: no kind, object, pod, namespace, role or policy")

    def put_back(self):
        """The installation as it was, with the same keys."""
        print("putting the installation back", flush=True)
        for kind in FLUX_KINDS:
            kubectl("delete", kind, "app", "-n", FLUX, "--ignore-not-found", "--timeout=100s", check=False)
        until("the old namespaces to be gone", lambda: not any("deletionTimestamp" in item["metadata"] for item in get("namespaces")), 120)
        put = ("apply", "--server-side", "--force-conflicts", "--field-manager=sandglass-install", "-f")
        kubectl(*put, f"{TOP}/manifests/base/namespaces.yaml")
        kubectl(*put, "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": self.kept}))
        kubectl("delete", "job", "sandglass-install-keys", "-n", SYSTEM, "--ignore-not-found")
        kubectl(*put, "-", stdin=self.manifests)
        for part in ("controller", "gateway"):
            kubectl("rollout", "status", f"deployment/sandglass-{part}", "-n", SYSTEM, "--timeout=100s")
        until("the Job of the keys", lambda: is_true(get("jobs", "sandglass-install-keys", SYSTEM), "Complete"), 60)
        until("the admission policies to be in force", in_force, 30)
        for item in GUARD:
            kubectl("delete", item["kind"], item["metadata"]["name"], "--ignore-not-found")
        fact("the installation is as it was, with the same keys and its policies in force")
