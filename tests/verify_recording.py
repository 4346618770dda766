#!/usr/bin/env python3
"""Verifies a local copy of one recording's folder: a second implementation, written from docs/recording.md and from nothing else.

usage: verify_recording.py FOLDER --key "ssh-ed25519 AAAA…" [--text CHANNEL]

Needs `ssh-keygen`, and for the contents the `zstandard` module or the `zstd` program; without them it says that contents were not read.
Exit status 0 and one line that begins with `complete` or `incomplete`; 1 and one line for each problem, with the object's name first.
With --text the bytes that the channel's user was shown go to standard output, if all is well, and the lines to standard error.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

FORMAT = "sandglass-recording/1"
NAMESPACE = "recording@sandglass.dev"
STREAMS = {"audit": ".jsonl.zst", "output": ".zst"}
SKIPPABLE, ZSTANDARD = 0x184D2A5B, 0xFD2FB528
OPEN, OUTPUT, ERROR, RESIZE, MARKER, EXIT, KEYSTROKES = range(1, 8)
HEX = re.compile(r"[0-9a-f]{64}")


class Problem(Exception):
    """One line for the user: the object's name and what is wrong with it."""

    def __init__(self, name, what):
        super().__init__(f"{name}: {what}")


# --- reading what others wrote ------------------------------------------------------------------


def read_json(text):
    """One JSON object; keys twice and numbers that are none are refused, because readers differ on them."""

    def once(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key is there twice")
        return result

    def no_number(text):
        raise ValueError(f"{text} is no number")

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except RecursionError as failure:
        raise ValueError("nested too deep") from failure
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def member(value, name, kind, needed=True):
    """A member of an object by name and exact type: True is not a number here."""
    found = value.get(name)
    if found is None and not needed:
        return None
    if type(found) is not kind:
        raise ValueError(f"`{name}` is missing or not {'an' if kind is int else 'a'} {kind.__name__}")
    return found


def printable(text):
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def object_name(stream, sequence):
    return f"{stream}-{sequence:08d}{STREAMS[stream]}"


# --- the manifest -------------------------------------------------------------------------------


def check_signature(text, signature, key):
    with tempfile.TemporaryDirectory() as folder:
        signers, armored = os.path.join(folder, "signers"), os.path.join(folder, "signature")
        with open(signers, "w", encoding="ascii") as file:
            file.write(f'sandglass namespaces="{NAMESPACE}" {key}\n')
        with open(armored, "wb") as file:
            file.write(signature)
        command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "sandglass", "-n", NAMESPACE, "-s", armored]
        result = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        said = printable(" ".join(result.stdout.decode(errors="replace").split()))
        raise ValueError(f"not signed by the given key for {NAMESPACE} (ssh-keygen: {said})")


def check_inner(manifest):
    """Shape of the signed object, without its lists of chunks."""
    if member(manifest, "format", str) != FORMAT:
        raise ValueError(f"not of the format {FORMAT}")
    complete = member(manifest, "complete", bool)
    for name in ("namespace", "name", "uid", "recording", "endedAt", "endReason", "sealedBy"):
        member(manifest, name, str)
    for name in ("requester", "startedAt"):  # whoever closes a dead replica's recording may not have the chunk with them
        member(manifest, name, str, needed=complete)
    for name in ("commit", "pullRequest", "run", "remoteAddress", "fingerprint", "certificate"):
        member(manifest, name, str, needed=False)
    if set(member(manifest, "streams", dict)) != set(STREAMS):
        raise ValueError(f"its streams are not {' and '.join(STREAMS)}")


def read_manifest(folder, key):
    try:
        with open(os.path.join(folder, "manifest.json"), "rb") as file:
            envelope = read_json(file.read().decode())
        if set(envelope) != {"manifest", "signature", "publicKey"}:
            raise ValueError("its members are not manifest, signature and publicKey")
        text, signature, public = (member(envelope, name, str) for name in ("manifest", "signature", "publicKey"))
        check_signature(text.encode(), signature.encode(), key)
        if public.split()[:2] != key.split():
            raise ValueError("its publicKey is another one than signed it")
        manifest = read_json(text)
        check_inner(manifest)
        return manifest
    except FileNotFoundError as failure:
        raise Problem("manifest.json", "missing") from failure
    except (ValueError, OSError) as failure:
        raise Problem("manifest.json", failure) from failure


def listed_chunks(manifest, stream):
    """The stream's entries as (size, hash), and the problems of the list itself."""
    entries, problems = [], []
    for place, entry in enumerate(member(manifest["streams"], stream, list)):
        name = object_name(stream, place)
        try:
            if not isinstance(entry, dict):
                raise ValueError("not a JSON object")
            sequence, size, digest = member(entry, "sequence", int), member(entry, "size", int), member(entry, "sha256", str)
            if not HEX.fullmatch(digest):
                raise ValueError("`sha256` is not 64 small hexadecimal digits")
        except ValueError as failure:
            problems.append(f"{name}: its entry in the manifest: {failure}")
            sequence, size, digest = place, None, None
        if sequence != place:
            problems.append(f"{name}: out of place: the manifest has number {sequence} there")
        entries.append((size, digest))
    return entries, problems


# --- one chunk ----------------------------------------------------------------------------------


def frame_end(data, start):
    """Where the Zstandard frame at `start` ends (RFC 8878, 3.1.1). Its blocks are measured, not unpacked."""
    descriptor = data[start + 4]
    single_segment = descriptor >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    at = start + 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + content_size
    last = False
    while not last:
        block = int.from_bytes(data[at : at + 3], "little")
        if at + 3 > len(data) or block >> 1 & 3 == 3:
            raise ValueError("a Zstandard frame is cut off or broken")
        last = block & 1
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)  # one byte stands for a whole block of type 1
    at += 4 * (descriptor >> 2 & 1)
    if at > len(data):
        raise ValueError("a Zstandard frame is cut off")
    return at


def split_chunk(data):
    """(header, the bytes behind it). Nothing but Zstandard frames may follow: a second skippable frame could hide something."""
    if len(data) < 8 or struct.unpack_from("<I", data)[0] != SKIPPABLE:
        raise ValueError("does not begin with a header")
    length = struct.unpack_from("<I", data, 4)[0]
    if 8 + length > len(data):
        raise ValueError("its header is cut off")
    header = read_json(data[8 : 8 + length].decode())
    at = 8 + length
    while at < len(data):
        if len(data) - at < 6 or struct.unpack_from("<I", data, at)[0] != ZSTANDARD:
            raise ValueError("there is something else than Zstandard frames behind its header")
        at = frame_end(data, at)
    return header, data[8 + length :]


def check_header(header, recording, stream, sequence, previous):
    """Raises if the header's shape is wrong; returns why the chunk does not belong here, or None."""
    known = {"format", "recording", "stream", "sequence", "previous", "replica"}
    if set(header) - {"fence"} != known or header.get("fence", True) is not True:
        raise ValueError(f"its header's members are not {', '.join(sorted(known))}, and `fence` if true")
    if member(header, "format", str) != FORMAT:
        raise ValueError(f"not of the format {FORMAT}")
    member(header, "replica", str)
    if member(header, "recording", str) != recording:
        return f"it is of the recording {printable(header['recording'])}"
    if (member(header, "stream", str), member(header, "sequence", int)) != (stream, sequence):
        return f"it is number {header['sequence']} of {printable(header['stream'])}"
    if member(header, "previous", str) != previous:
        return "its `previous` is not the hash of the chunk before it"
    return None


class Chunk:
    """A chunk that is the one the manifest means: name, header, packed payload."""

    def __init__(self, name, header, packed):
        self.name, self.header, self.packed = name, header, packed

    def fence(self):
        return "fence" in self.header


def check_chunk(folder, manifest, stream, sequence, entries, everything):
    """The chunk, verified against the manifest and the chain, or a Problem."""
    name = object_name(stream, sequence)
    size, digest = entries[sequence]
    try:
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
    except FileNotFoundError as failure:
        raise Problem(name, "missing") from failure
    except OSError as failure:
        raise Problem(name, f"cannot be read: {failure.strerror}") from failure
    found = (len(data), hashlib.sha256(data).hexdigest())
    if found != (size, digest):
        raise Problem(name, "out of place: it is another chunk of this recording" if found in everything else "changed")
    previous = entries[sequence - 1][1] if sequence else "0" * 64
    try:
        header, packed = split_chunk(data)
        misplaced = check_header(header, manifest["recording"], stream, sequence, previous)
    except (ValueError, IndexError) as failure:
        raise Problem(name, failure) from failure
    if misplaced:
        raise Problem(name, f"out of place: {misplaced}")
    if "fence" in header and manifest["complete"]:
        raise Problem(name, "a fence, in a recording that is called complete")
    if "fence" in header and sequence + 1 != len(entries):
        raise Problem(name, "a fence that is not the last chunk of its stream")
    return Chunk(name, header, packed)


# --- contents -----------------------------------------------------------------------------------


def find_unpacker():
    """A function from packed bytes to payload, or None."""
    try:
        import zstandard
    except ImportError:
        program = shutil.which("zstd")
        return program and (lambda packed: unpack_by_program(program, packed))

    def unpack(packed):
        try:
            with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
                return reader.read()
        except zstandard.ZstdError as failure:
            raise ValueError(f"cannot be unpacked: {failure}") from failure

    return unpack


def unpack_by_program(program, packed):
    if not packed:
        return b""
    result = subprocess.run([program, "-dcq"], input=packed, capture_output=True, check=False)
    if result.returncode != 0:
        raise ValueError(f"cannot be unpacked: {printable(result.stderr.decode(errors='replace').strip())}")
    return result.stdout


def records(payload):
    """The output stream's records of one chunk: (kind, channel, data)."""
    at = 0
    while at < len(payload):
        if len(payload) - at < 17:
            raise ValueError("its last record is cut off")
        kind, channel, _time, length = struct.unpack_from("<BIQI", payload, at)
        data = payload[at + 17 : at + 17 + length]
        if len(data) != length:
            raise ValueError("its last record is cut off")
        if not OPEN <= kind <= KEYSTROKES:
            raise ValueError(f"a record of the unknown kind {kind}")
        if kind in (OPEN, RESIZE, EXIT):
            read_json(data.decode())
        elif kind == MARKER:
            data.decode()
        yield kind, channel, data
        at += 17 + length


def events(chunks):
    """The audit stream's events: (name of the chunk that the line begins in, event). A line may go on in the next chunk."""
    rest, begun = b"", None
    for chunk, payload in chunks:
        *lines, tail = (rest + payload).split(b"\n")
        for number, line in enumerate(lines):
            name = begun if number == 0 and rest else chunk.name
            try:
                event = read_json(line.decode())
                member(event, "time", str)
                member(event, "event", str)
            except ValueError as failure:
                raise Problem(name, f"a line that is no event: {failure}") from failure
            yield name, event
        begun = begun if rest and not lines else chunk.name
        rest = tail
    if rest:
        raise Problem(begun, "its last line is cut off")


def check_audit(manifest, chunks):
    """The problems of the order of events, and of who the recording says it is of."""
    every = list(events(chunks))
    if not every:
        if manifest["complete"]:
            yield "audit-00000000.jsonl.zst: no events in a complete recording"
        return
    first_name, first = every[0]
    if first["event"] != "connection":
        yield f"{first_name}: the first event is not `connection`"
    else:
        signed = {name: manifest.get(name) for name in ("namespace", "name", "uid", "requester")}
        for name, value in signed.items():
            if first.get(name) != value:
                yield f"{first_name}: `{printable(name)}` of the connection is another one than in the manifest"
    for number, (name, event) in enumerate(every):
        if event["event"] == "connection" and number > 0:
            yield f"{name}: a second `connection`"
        if event["event"] == "end" and number + 1 < len(every):
            yield f"{name}: events after `end`"
    if manifest["complete"] and every[-1][1]["event"] != "end":
        yield f"{every[-1][0]}: the last event of a complete recording is not `end`"


class Verification:
    """Everything that is found out about one folder."""

    def __init__(self, folder, key):
        self.folder, self.problems = folder, []
        self.manifest = read_manifest(folder, key)
        self.chunks = {}
        self.bytes = self.events = 0
        self.shown = {}  # channel -> what its user was shown, in pieces
        self.unpack = find_unpacker()

    def check(self):
        listed, broken = {}, {}
        for stream in STREAMS:
            listed[stream], problems = listed_chunks(self.manifest, stream)
            self.problems += problems
            broken[stream] = bool(problems)
        everything = {entry for entries in listed.values() for entry in entries}
        for stream, entries in listed.items():
            self.chunks[stream] = [
                chunk
                for sequence in range(0 if broken[stream] else len(entries))  # a wrong list says nothing about chunks
                if (chunk := self.attempt(check_chunk, self.folder, self.manifest, stream, sequence, entries, everything))
            ]
        self.check_extras({object_name(stream, number) for stream, entries in listed.items() for number in range(len(entries))})
        self.bytes = sum(size or 0 for entries in listed.values() for size, _ in entries)
        if self.manifest["complete"] and not listed["audit"]:
            self.problems.append("manifest.json: a complete recording without audit chunks")
        # Of streams with holes only the holes are worth telling.
        if self.unpack and not self.problems:
            self.check_contents()

    def attempt(self, function, *arguments):
        try:
            return function(*arguments)
        except Problem as problem:
            self.problems.append(str(problem))
            return None

    def check_extras(self, known):
        for name in sorted(os.listdir(self.folder)):
            if name not in known and (name.startswith(tuple(f"{stream}-" for stream in STREAMS)) or name.endswith(".zst")):
                self.problems.append(f"{printable(name)}: is not in the manifest")

    def payloads(self, stream):
        for chunk in self.chunks[stream]:
            try:
                payload = self.unpack(chunk.packed)
            except ValueError as failure:
                raise Problem(chunk.name, failure) from failure
            if chunk.fence() and payload:
                raise Problem(chunk.name, "a fence that is not empty")
            yield chunk, payload

    def check_contents(self):
        self.attempt(self.read_audit)
        self.attempt(self.read_output)

    def read_audit(self):
        payloads = list(self.payloads("audit"))
        self.problems += check_audit(self.manifest, payloads)
        self.events = sum(payload.count(b"\n") for _, payload in payloads)

    def read_output(self):
        for chunk, payload in self.payloads("output"):
            try:
                for kind, channel, data in records(payload):
                    pieces = self.shown.setdefault(channel, [])
                    if kind in (OUTPUT, ERROR):
                        pieces.append(data)
            except ValueError as failure:
                raise Problem(chunk.name, failure) from failure

    def summary(self):
        manifest = self.manifest
        contents = f"{self.events} events, {len(self.shown)} channels" if self.unpack else "contents not read (no zstd here)"
        words = [
            "complete" if manifest["complete"] else "incomplete",
            f"{sum(map(len, self.chunks.values()))} chunks",
            f"{self.bytes} bytes",
            contents,
            f"recording {manifest['recording']} of {manifest['namespace']}/{manifest['name']}",
            f"requested by {manifest.get('requester')}",
            f"{manifest.get('startedAt')} to {manifest['endedAt']}",
        ]
        return printable(", ".join(words))


def public_key(text):
    """Type and base64 of a public key's line: nothing that could be an option of the signers' file."""
    words = text.split()
    if len(words) < 2 or not re.fullmatch(r"[a-z0-9@.-]+", words[0]) or not re.fullmatch(r"AAAA[A-Za-z0-9+/]+={0,2}", words[1]):
        raise argparse.ArgumentTypeError("not a public key in OpenSSH's format")
    return f"{words[0]} {words[1]}"


def main():
    parser = argparse.ArgumentParser(description="Verifies a local copy of one recording's folder.")
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--key", required=True, type=public_key, help='the signer\'s public key, "ssh-ed25519 AAAA…"')
    parser.add_argument("--text", metavar="CHANNEL", type=int, help="write the bytes that this channel's user was shown")
    arguments = parser.parse_args()
    said = sys.stdout if arguments.text is None else sys.stderr
    try:
        verification = Verification(arguments.folder, arguments.key)
        verification.check()
        problems = verification.problems
    except Problem as problem:
        problems = [str(problem)]
    if not problems and arguments.text is not None:
        if not verification.unpack:
            problems = ["--text: needs the zstandard module or the zstd program"]
        elif arguments.text not in verification.shown:
            problems = [f"--text: no channel {arguments.text} in this recording"]
    if problems:
        print(*problems, sep="\n", file=said)
        return 1
    print(verification.summary(), file=said)
    if arguments.text is not None:
        sys.stdout.buffer.write(b"".join(verification.shown[arguments.text]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
