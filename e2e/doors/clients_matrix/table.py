"""The tables of the document: written from what was seen, or compared with it. Versions are noted, and not compared."""

from setting import COLUMNS

BEGIN = "<!-- From here on e2e/doors/clients --write wrote it. -->"
END = "<!-- Up to here. -->"
VERSION = 1


def row(cells):
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def works(seen):
    """Rows of clients that got in: name, (version, what it did, note)."""
    lines = [row(["client", "tried with", *COLUMNS, "how"]), "|---" * (3 + len(COLUMNS)) + "|"]
    for name, (version, did, note) in seen.items():
        lines.append(row([name, version, *("yes" if column in did else "" for column in COLUMNS), note]))
    return lines


def refused(seen):
    """Rows of (asked, by, why, words)."""
    lines = [row(["asked for", "with", "why not", "what it says"]), "|---" * 4 + "|"]
    for asked, by, why, words in seen:
        shown = words if words.startswith("(") else f"`{words}`"
        lines.append(row([asked, by, why, shown]))
    return lines


def cut(text):
    """What is before, between and after the marks."""
    before, mark, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"the document lacks its marks: {BEGIN} and {END}")
    return before, between, after


def written(text, clients, refusals):
    before, _, after = cut(text)
    lines = ["", "", "## What works", "", *works(clients), "", "## What is refused", "", *refused(refusals), "", ""]
    return before + BEGIN + "\n".join(lines) + END + after


def rows_of(text):
    """Rows of the document by their client or request, as lists of cells."""
    rows = {}
    heading = ""
    for line in cut(text)[1].splitlines():
        if line.startswith("## "):
            heading = line
        elif line.startswith("| "):
            cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            key = (heading, cells[0]) if heading.endswith("works") else (heading, cells[0], cells[1])
            rows[key] = [cell for number, cell in enumerate(cells) if number != VERSION or len(key) == 3]
    return rows


def differences(text, clients, refusals, not_tried):
    """Sentences about rows that are not as the document has them; rows of what could not be tried here are left alone."""
    before, after = rows_of(text), rows_of(written(text, clients, refusals))
    found = []
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key) and key[1] not in not_tried:
            found.append(f"{key[1]}: the document has {before.get(key)}, seen was {after.get(key)}")
    return sorted(found)
