"""Starting processes so that none outlives the run, and looking at what they use."""

import ctypes
import os
import signal
import subprocess
import time

TICK = 1 / os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """Something that keeps the run from going on; the message says what to do."""


def adopt_orphans():
    """What our children leave behind becomes our child, so that it can be found and ended."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def _end_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(command, **options):
    return subprocess.Popen(command, preexec_fn=_end_with_parent, **options)


def _parents():
    """Parent of every process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return parents


def tree(root):
    """`root` and all below it."""
    parents = _parents()
    found, grown = {root}, True
    while grown:
        new = {child for child, parent in parents.items() if parent in found} - found
        found |= new
        grown = bool(new)
    return found


def program(process):
    """What a process runs; empty when it is gone."""
    try:
        return os.readlink(f"/proc/{process}/exe")
    except OSError:
        return ""


def pss(processes):
    """Memory of processes in kB of 1024 bytes; pages they share count once."""
    total = 0
    for process in processes:
        try:
            with open(f"/proc/{process}/smaps_rollup", encoding="utf-8") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except OSError:
            continue  # ended meanwhile
    return total


def cpu(processes):
    """Seconds of CPU that each process has used, its children's not counted."""
    used = {}
    for process in processes:
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
                used[process] = sum(map(int, file.read().rpartition(")")[2].split()[11:13])) * TICK
        except OSError:
            continue  # ended meanwhile
    return used


def between(before, after):
    """Seconds of CPU used between two looks, by those that were there at both; at least a tick, the least that the kernel counts."""
    return max(sum(after[process] - before[process] for process in before.keys() & after.keys()), TICK)


def end(process, patience=5):
    """Ends one child."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_all():
    """Ends everything below this process, by its id."""
    me = os.getpid()
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + 3
        while rest := tree(me) - {me}:
            for process in rest:
                try:
                    os.kill(process, number)
                except OSError:
                    pass
            _reap()
            if time.monotonic() > limit:
                break
            time.sleep(0.05)


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError:
        pass
