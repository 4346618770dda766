#!/usr/bin/env python3
"""Compares what the chart renders with what kustomize renders: the same objects, field by field, whatever the order and the quoting.

usage: helm-compare.py KUSTOMIZE.yaml HELM.yaml

Only what the chart says on purpose is set aside: the mark by which an upgraded configuration restarts its pods, the policy that keeps
what must outlive a release, and the end of a Job's name, which follows its content. Ends with status 1 and one line per
difference.
"""

import re
import sys

import yaml

KEEP = "helm.sh/resource-policy"
CONFIGURATION = "sandglass.dev/configuration"
PODS_LIVE_IN = ("sandglass-debug", "sandglass-vm")


class Different(Exception):
    """The two do not say the same; the message says where."""


def key(item):
    """Kind, namespace and name: what an object is known by."""
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def objects(path):
    """The file's objects by their key. One key twice is refused: the later would silently win."""
    found = {}
    with open(path, encoding="utf-8") as stream:
        for item in yaml.safe_load_all(stream):
            if item is None:
                continue
            if key(item) in found:
                raise Different(f"{path}: {key(item)} is there twice")
            found[key(item)] = item
    if not found:
        raise Different(f"{path}: there is no object in it")
    return found


def without(metadata, name):
    """Takes one annotation out of a metadata; its value, or None where it was not there."""
    annotations = metadata.pop("annotations", None) or {}
    value = annotations.pop(name, None)
    if annotations:
        metadata["annotations"] = annotations
    return value


def is_kept(item):
    """Whether Helm must leave it: what holds objects or keys, the policy over the objects, and what isolates pods for as long as there
    are any."""
    kind, namespace, name = key(item)
    return (kind == "CustomResourceDefinition" or (kind == "Namespace" and name == "sandglass-system")
            or (kind.startswith("ValidatingAdmissionPolicy") and name == "sandglass-sessions")
            or (kind == "NetworkPolicy" and namespace in PODS_LIVE_IN))


def same_terms(items):
    """The chart's objects as kustomize has them."""
    renamed = {}
    for item in items.values():
        kind, _, name = key(item)
        if kind == "Job":
            item["metadata"]["name"] = re.sub(r"-[0-9a-f]{8}$", "", name)
        kept = without(item["metadata"], KEEP)
        if (kept == "keep") != is_kept(item):
            raise Different(f"{key(item)}: {KEEP} is {kept}")
        if kind == "Deployment" and not without(item["spec"]["template"]["metadata"], CONFIGURATION):
            raise Different(f"{key(item)}: its pods have no mark of the configuration")
        renamed[key(item)] = item
    return renamed


def open_configuration(items):
    """sandglass.yaml is text in a ConfigMap: what counts is what it says."""
    data = items[("ConfigMap", "sandglass-system", "sandglass")]["data"]
    data["sandglass.yaml"] = yaml.safe_load(data["sandglass.yaml"])


def differences(left, right, path=""):
    """One line per place in which two values are not the same, true and 1 included."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted(left.keys() | right.keys()):
            where = f"{path}.{name}" if path else name
            if name not in right:
                yield f"{where}: only kustomize has {left[name]!r}"
            elif name not in left:
                yield f"{where}: only the chart has {right[name]!r}"
            else:
                yield from differences(left[name], right[name], where)
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (one, other) in enumerate(zip(left, right)):
            yield from differences(one, other, f"{path}[{number}]")
    elif type(left) is not type(right) or left != right:
        yield f"{path}: kustomize has {left!r}, the chart {right!r}"


def compare(kustomize, helm):
    """All differences, and how many objects there are."""
    left, right = objects(kustomize), same_terms(objects(helm))
    open_configuration(left)
    open_configuration(right)
    lines = []
    for name in sorted(left.keys() | right.keys()):
        title = " ".join(part for part in name if part)
        if name not in right or name not in left:
            lines.append(f"{title}: only {'kustomize' if name in left else 'the chart'} renders it")
        else:
            lines += [f"{title}: {line}" for line in differences(left[name], right[name])]
    return lines, len(left)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        lines, count = compare(sys.argv[1], sys.argv[2])
    except (Different, OSError, yaml.YAMLError) as error:
        sys.exit(f"helm-compare: {error}")
    for line in lines:
        print(line)
    if lines:
        sys.exit(f"helm-compare: {len(lines)} differences")
    print(f"{count} objects, the same")


if __name__ == "__main__":
    main()
