"""Reads manifests/monitoring/dashboard.json: its panels, and their queries as Prometheus gets them. No network, no programs."""

import json
import pathlib
import re

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "manifests" / "monitoring"
METRIC = re.compile(r"\bsandglass_[a-z0-9_]+")


def load():
    return json.loads((FOLDER / "dashboard.json").read_text())


def panels(dashboard):
    """(row's title, panel) of every panel that is no row, in order; those of a collapsed row too."""
    found, row = [], ""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            found += [(row, inner) for inner in panel.get("panels", [])]
        else:
            found.append((row, panel))
    return found


def variables(dashboard):
    return dashboard["templating"]["list"]


def filled(dashboard, expression, window):
    """A query as Grafana sends it with `All` chosen everywhere; `window` stands for the intervals that Grafana works out."""
    for interval in ("__rate_interval", "__interval", "__range"):
        expression = re.sub(rf"\${interval}\b|\${{{interval}}}", window, expression)
    for variable in variables(dashboard):
        expression = re.sub(rf"\${variable['name']}\b|\${{{variable['name']}}}", ".*", expression)
    if "$" in expression:
        raise ValueError(f"this names a variable that the dashboard does not have: {expression}")
    return expression


def as_expression(query):
    """What a template variable asks for, as PromQL: `label_values(SERIES, LABEL)` is no function of Prometheus'."""
    match = re.fullmatch(r"label_values\((.+), *(\w+)\)", query)
    if not match:
        raise ValueError(f"only label_values(SERIES, LABEL) is known here, not: {query}")
    return f"group by ({match.group(2)}) ({match.group(1)})"


def queries(dashboard, window):
    """(where it stands, PromQL) of everything the dashboard asks: panels, template variables, annotations."""
    asked = []
    for row, panel in panels(dashboard):
        for target in panel.get("targets", []):
            asked.append((f"{row} / {panel['title']} / {target['refId']}", filled(dashboard, target["expr"], window)))
    for variable in variables(dashboard):
        if variable["type"] == "query":
            asked.append((f"variable {variable['name']}", filled(dashboard, as_expression(variable["query"]["query"]), window)))
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            asked.append((f"annotation {annotation['name']}", filled(dashboard, annotation["expr"], window)))
    return asked
