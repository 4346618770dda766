"""From raw pairs to the rows of bench.json, and from those to tables."""

import math
import statistics

# Of each row: what it says in words, whether `value` or `ratio` must not be above ("<=") or below (">=") its goal, and the goal, if any.
GOALS = {
    "connect_p50": ("connect, `true`, exit: p50", "ratio", "<=", 0.4),
    "connect_p99": ("connect, `true`, exit: p99", "ratio", "<=", 0.4),
    "echo_added_p50_ms": ("keystroke echo, added to sshd's: p50", "value", "<=", 0.3),
    "echo_added_p99_ms": ("keystroke echo, added to sshd's: p99", "value", "<=", 0.3),
    "download": ("download", "ratio", ">=", 1.0),
    "download_cpu": ("of it: the server's CPU time", "value", "<=", None),
    "upload": ("upload", "ratio", ">=", 0.85),
    "download_chacha20": ("download, ChaCha20", "ratio", ">=", 1.0),
    "download_chacha20_cpu": ("of it: the server's CPU time", "value", "<=", None),
    "upload_chacha20": ("upload, ChaCha20", "ratio", ">=", 0.85),
    "idle_session_kb": ("memory per idle session", "value", "<=", 120),
    "download_recorded": ("download, recorded", "ratio", ">=", 0.8),
    "download_recorded_cpu": ("of it: the server's CPU time", "value", "<=", None),
    "echo_added_recorded_p50_ms": ("keystroke echo, recorded, added to sshd's: p50", "value", "<=", 0.3),
    "echo_added_recorded_p99_ms": ("keystroke echo, recorded, added to sshd's: p99", "value", "<=", 0.3),
    "idle_session_recorded_kb": ("memory per idle recorded session", "value", "<=", 150),
    "stored_zeros_mb": ("stored for 600 MB of zeros", "value", "<=", 1),
    "stored_typing_mb_per_hour": ("stored for an hour of typing", "value", "<=", 2),
    "apply_to_shell": ("apply to the first command", "ratio", "<=", 1.15),
    "apply_to_shell_once_open": ("the same, where `Open` is waited for before `ssh`", "ratio", "<=", None),
    # The baseline of the first is plain ssh with the key at hand, of its parts the whole.
    "apply_to_machine": ("apply to a machine's first byte", "value", "<=", None),
    "apply_to_machine_pod": ("of it: until the recovery pod runs", "value", "<=", None),
    "apply_to_machine_vault": ("of it: Vault", "value", "<=", None),
    "apply_to_machine_ssh": ("of it: SSH to the machine", "value", "<=", None),
}
# Two halves of the baseline's own runs that differ by more than this say that the machine was not quiet.
NOISE = 0.15


def quantile(values, part):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)]


def row(name, unit, value, baseline, ratio, pairs):
    runs = [{"value": round(ours, 4), "baseline": round(theirs, 4)} for ours, theirs in pairs]
    return {"name": name, "value": round(value, 4), "unit": unit, "baseline": round(baseline, 4), "ratio": round(ratio, 4), "runs": runs}


def of(pairs, statistic):
    return [statistic([pair[side] for pair in pairs]) for side in (0, 1)]


def alone(name, unit, value):
    """A figure that has nothing to be compared with: its baseline is what was put in."""
    return row(name, unit, value[0], value[1], value[0] / value[1], [value])


def compared(name, unit, pairs, statistic):
    ours, theirs = of(pairs, statistic)
    return row(name, unit, ours, theirs, ours / theirs, pairs)


def added(name, pairs, part):
    """`value` is the difference, `baseline` sshd's own, `ratio` ours to sshd's."""
    ours, theirs = of(pairs, lambda values: quantile(values, part))
    return row(name, "ms", ours - theirs, theirs, ours / theirs, pairs)


def quantiles(name, pairs):
    return [compared(f"{name}_p{part}", "ms", pairs, lambda values, part=part: quantile(values, part / 100)) for part in (50, 99)]


def quantiles_added(name, pairs):
    return [added(f"{name}_p{part}_ms", pairs, part / 100) for part in (50, 99)]


def medians(name, unit, pairs):
    return [compared(name, unit, pairs, statistics.median)]


def transfers(name, pairs):
    """Of pairs of (MB/s, seconds of CPU for each GiB)."""
    speeds, costs = ([tuple(side[column] for side in pair) for pair in pairs] for column in (0, 1))
    return medians(name, "MB/s", speeds) + medians(f"{name}_cpu", "s/GiB", costs)


def noise(one):
    """By how much two halves of the baseline's own runs differ; None for too few."""
    theirs = [run["baseline"] for run in one["runs"]]
    if len(theirs) < 4:
        return None
    halves = [statistics.median(theirs[start::2]) for start in (0, 1)]
    return max(halves) / min(halves) - 1


def reached(one):
    _, field, sign, goal = GOALS[one["name"]]
    if goal is None:
        return True
    return one[field] <= goal if sign == "<=" else one[field] >= goal


def number(value, unit):
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3 if unit == "ms" and abs(value) < 1 else 2
    return f"{value:.{digits}f} {unit}"


def cells(one):
    what, field, sign, goal = GOALS[one["name"]]
    if goal is None:
        return [one["name"], what, number(one["value"], one["unit"]), number(one["baseline"], one["unit"]), f"{one['ratio']:.2f}x", "", "", str(len(one["runs"]))]
    bar = f"{goal:g}x" if field == "ratio" else f"{goal:g} {one['unit']}"
    return [one["name"], what, number(one["value"], one["unit"]), number(one["baseline"], one["unit"]), f"{one['ratio']:.2f}x",
            f"{sign} {bar}", "reached" if reached(one) else "**missed**", str(len(one["runs"]))]


HEADS = ["name", "what", "Sandglass", "baseline", "ratio", "goal", "", "runs"]


def terminal(rows):
    lines = [[cell.replace("*", "").replace("`", "") for cell in line] for line in [HEADS, *map(cells, rows)]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def markdown(rows, conditions):
    lines = [HEADS, ["---"] * len(HEADS), *([f"`{name}`", *rest] for name, *rest in map(cells, rows))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {key}: {value}" for key, value in conditions.items())
