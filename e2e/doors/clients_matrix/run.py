#!/usr/bin/env python3
"""Tries all clients, three at a time, tells of each in one line, and compares what was seen with the document, or writes it there.

usage: run.py FOLDER DOCUMENT [--write]
"""

import concurrent.futures
import os
import signal
import sys
import time

import editor
import libraries
import openssh
import playbooks
import programs
import table
from refusals import REFUSALS
from setting import Failed, NotTried, Setting

CLIENTS = {**openssh.CLIENTS, **editor.CLIENTS, **programs.CLIENTS, **libraries.CLIENTS, **playbooks.CLIENTS}
AT_ONCE = 3


def colour(name):
    return os.environ.get(name, "")


def tell(word, colour_name, text):
    print(f"      {colour(colour_name)}{word}{colour('PLAIN')}  {text}", flush=True)


def tried(trial, setting):
    began = time.monotonic()
    try:
        outcome = trial(setting)
    except NotTried as reason:
        outcome = reason
    except Exception as failure:  # whatever a library throws is that client's result
        outcome = failure if isinstance(failure, Failed) else Failed(f"{type(failure).__name__}: {failure}")
    return outcome, time.monotonic() - began


def all_of(trials, setting):
    """Runs (name, function) pairs, and gives their outcomes in order."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        running = [(name, pool.submit(tried, trial, setting)) for name, trial in trials]
        for name, future in running:
            yield name, *future.result()


def try_clients(setting):
    seen, not_tried, failed = {}, [], []
    for name, outcome, seconds in all_of(CLIENTS.items(), setting):
        if isinstance(outcome, NotTried):
            not_tried.append(name)
            tell("--", "DIM", f"{name}: not tried, {outcome}")
        elif isinstance(outcome, Failed):
            failed.append(name)
            tell("failed", "BAD", f"{name}: {outcome}")
        else:
            version, did, note = outcome
            seen[name] = outcome
            tell("ok", "OK", f"{name} {version}: {', '.join(did) or note} {colour('DIM')}({seconds:.1f} s){colour('PLAIN')}")
    return seen, not_tried, failed


def try_refusals(setting):
    seen, failed = [], []
    trials = [((asked, by, why), trial) for asked, by, why, trial in REFUSALS]
    for (asked, by, why), outcome, _ in all_of(trials, setting):
        if isinstance(outcome, Failed):
            failed.append(asked)
            tell("failed", "BAD", f"{asked}, {by}: {outcome}")
        else:
            seen.append((asked, by, why, outcome))
            tell("ok", "OK", f"refused: {asked}, {by}: {outcome}")
    return seen, failed


def main():
    folder, document = sys.argv[1:3]
    write = sys.argv[3:] == ["--write"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    setting = Setting(folder)
    try:
        clients, not_tried, failed = try_clients(setting)
        refusals, also_failed = try_refusals(setting)
    finally:
        setting.end_all()
    if failed or also_failed:
        sys.exit(f"clients: failed: {', '.join(failed + also_failed)}")
    with open(document, encoding="utf-8") as stream:
        text = stream.read()
    if write:
        if not_tried:
            sys.exit(f"clients: the document is not written, for want of: {', '.join(not_tried)}")
        with open(document, "w", encoding="utf-8") as stream:
            stream.write(table.written(text, clients, refusals))
        print(f"      {document} is written")
        return
    found = table.differences(text, clients, refusals, not_tried)
    for line in found:
        tell("differs", "BAD", line)
    if found:
        sys.exit("clients: docs/clients.md is not what was seen: mend what broke, or run e2e/doors/clients --write")
    tell("ok", "OK", f"docs/clients.md says so: {len(clients)} clients, {len(refusals)} refusals")


if __name__ == "__main__":
    main()
