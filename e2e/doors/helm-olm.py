#!/usr/bin/env python3
"""Makes the bundle for the Operator Lifecycle Manager out of the manifests, and checks it.

usage: helm-olm.py sync BASE.yaml                    writes manifests/olm/bundle/manifests
       helm-olm.py check BASE.yaml PREREQUISITES.yaml

BASE.yaml and PREREQUISITES.yaml are what `kubectl kustomize` renders of manifests/base and manifests/olm/prerequisites. `check` ends
with status 1 and a line unless the bundle is what `sync` would write, and bundle and prerequisites together are the base: every object
in one of them, none in both, no right that the base does not give.
"""

import json
import pathlib
import sys

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
OLM = TOP / "manifests/olm"
BUNDLE = OLM / "bundle/manifests"
PARTS = ["sandglass-controller", "sandglass-gateway"]
EXAMPLES = ["from-job.yaml", "breakglass-vm.yaml"]
CSV = "sandglass.clusterserviceversion.yaml"
KINDS = {"debugsessions.yaml": "sandglass.dev_debugsessions.yaml", "breakglassvms.yaml": "sandglass.dev_breakglassvms.yaml"}


class Wrong(Exception):
    """The bundle is not the manifests; the message says where."""


def load(path):
    """The objects of a file by kind, namespace and name."""
    with open(path, encoding="utf-8") as stream:
        items = [item for item in yaml.safe_load_all(stream) if item]
    return {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in items}


def install(base):
    """The install strategy: Deployments as they are, and the rules of the ClusterRoles that their ServiceAccounts are bound to."""
    deployments, permissions = [], []
    for part in PARTS:
        deployment = base["Deployment", "sandglass-system", part]
        deployments.append({"name": part, "label": deployment["metadata"]["labels"], "spec": deployment["spec"]})
        binding = base["ClusterRoleBinding", "", part]
        if binding["subjects"] != [{"kind": "ServiceAccount", "name": part, "namespace": "sandglass-system"}]:
            raise Wrong(f"ClusterRoleBinding {part} has other subjects than its ServiceAccount")
        if deployment["spec"]["template"]["spec"]["serviceAccountName"] != part:
            raise Wrong(f"Deployment {part} has another ServiceAccount")
        permissions.append({"serviceAccountName": part, "rules": base["ClusterRole", "", binding["roleRef"]["name"]]["rules"]})
    return {"strategy": "deployment", "spec": {"clusterPermissions": permissions, "deployments": deployments}}


def cluster_service_version(base):
    """The whole ClusterServiceVersion."""
    csv = yaml.safe_load((OLM / "description.yaml").read_text(encoding="utf-8"))
    examples = [yaml.safe_load((TOP / "manifests/samples" / name).read_text(encoding="utf-8")) for name in EXAMPLES]
    csv["metadata"]["annotations"]["alm-examples"] = json.dumps(examples, indent=2)
    csv["spec"]["install"] = install(base)
    return csv


def files(base):
    """Name and text of each file of the bundle."""
    made = "# Made by e2e/doors/helm-olm.py sync; do not edit.\n"
    yield CSV, made + yaml.safe_dump(cluster_service_version(base), sort_keys=False, width=120, allow_unicode=True)
    for source, target in KINDS.items():
        yield target, (TOP / "crds" / source).read_text(encoding="utf-8")


def check_files(base):
    """Each file of the bundle is what it would be made today, and there is no other."""
    wanted = dict(files(base))
    found = {path.name for path in BUNDLE.iterdir()}
    if found != wanted.keys():
        raise Wrong(f"the bundle holds {sorted(found)} and not {sorted(wanted)}")
    for name, text in wanted.items():
        if (BUNDLE / name).read_text(encoding="utf-8") != text:
            raise Wrong(f"{name} is old. Cure: e2e/doors/helm-packages sync")


def check_kinds(csv):
    """The kinds that the bundle owns are those it holds, each with an example."""
    owned = {(kind["name"], kind["version"], kind["kind"]) for kind in csv["spec"]["customresourcedefinitions"]["owned"]}
    held = set()
    for name in KINDS.values():
        kind = yaml.safe_load((BUNDLE / name).read_text(encoding="utf-8"))
        held |= {(kind["metadata"]["name"], version["name"], kind["spec"]["names"]["kind"]) for version in kind["spec"]["versions"]}
    if owned != held:
        raise Wrong(f"the bundle says that it owns {sorted(owned)}, and holds {sorted(held)}")
    examples = {(item["apiVersion"].split("/")[1], item["kind"]) for item in json.loads(csv["metadata"]["annotations"]["alm-examples"])}
    if examples != {(version, kind) for _, version, kind in held}:
        raise Wrong(f"alm-examples has {sorted(examples)}")


def check_labels():
    """annotations.yaml and the labels of the image say the same."""
    annotations = yaml.safe_load((OLM / "bundle/metadata/annotations.yaml").read_text(encoding="utf-8"))["annotations"]
    lines = (OLM / "bundle.Containerfile").read_text(encoding="utf-8").splitlines()
    labels = dict(line.removeprefix("LABEL ").split("=", 1) for line in lines if line.startswith("LABEL "))
    if labels != annotations:
        raise Wrong("annotations.yaml and the labels of bundle.Containerfile differ")


def check_division(base, prerequisites):
    """Each object of the base is in the bundle or in the prerequisites, as it is."""
    bundle = {("ServiceAccount", "sandglass-system", part) for part in PARTS}
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        bundle |= {(kind, "", part) for part in PARTS}
    bundle |= {("Deployment", "sandglass-system", part) for part in PARTS}
    bundle |= {key for key in base if key[0] == "CustomResourceDefinition"}
    if bundle - base.keys():
        raise Wrong(f"the base has no {sorted(bundle - base.keys())}")
    rest = {key: item for key, item in base.items() if key not in bundle}
    if rest.keys() != prerequisites.keys():
        raise Wrong(f"prerequisites and base differ in {sorted(rest.keys() ^ prerequisites.keys())}")
    for key, item in rest.items():
        if item != prerequisites[key]:
            raise Wrong(f"{key} is another one in the prerequisites")
    return len(bundle), len(rest)


def main():
    try:
        match sys.argv[1:]:
            case ["sync", base]:
                BUNDLE.mkdir(parents=True, exist_ok=True)
                for name, text in files(load(base)):
                    (BUNDLE / name).write_text(text, encoding="utf-8")
            case ["check", base, prerequisites]:
                objects = load(base)
                check_files(objects)
                check_kinds(yaml.safe_load((BUNDLE / CSV).read_text(encoding="utf-8")))
                check_labels()
                print("%d objects in the bundle, %d in the prerequisites" % check_division(objects, load(prerequisites)))
            case _:
                sys.exit(__doc__)
    except (Wrong, OSError, KeyError, yaml.YAMLError) as error:
        sys.exit(f"helm-olm: {error}")


if __name__ == "__main__":
    main()
