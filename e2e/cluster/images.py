#!/usr/bin/env python3
"""Writes the container images of the end-to-end tests as OCI-layout tars, without a registry or a builder.

usage: images.py OUTDIR [--sandglass PATH --agent PATH [--power PATH]] [--only NAME]...

The same input gives the same bytes: times are zero, entries sorted, owners fixed. OUTDIR gets one
NAME.tar per image and digests.json, which maps "local.test/NAME:TAG" to its manifest's digest.
As a library: put files into a Tree, make an Image of it, write it with Image.write(folder).
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile

REGISTRY = "local.test"
EPOCH = "1970-01-01T00:00:00Z"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageError(Exception):
    """Something an image needs is not there; the message says what and how to get it."""


# --- files of an image ------------------------------------------------------------------------


class Tree:
    """The files of one layer: path without a leading slash -> (header, content). Folders are added as needed."""

    def __init__(self):
        self.entries = {}

    def _add(self, path, kind, mode, content=b"", target=""):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.folder(parent)
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.linkname, entry.size = kind, mode, target, len(content)
        self.entries[path] = (entry, content)

    def folder(self, path, mode=0o755):
        self._add(path, tarfile.DIRTYPE, mode)

    def file(self, path, content, mode=0o644):
        self._add(path, tarfile.REGTYPE, mode, content.encode() if isinstance(content, str) else content)

    def link(self, path, target):
        self._add(path, tarfile.SYMTYPE, 0o777, target=target)

    def copy(self, path, source, mode=None):
        with open(source, "rb") as stream:
            content = stream.read()
        self.file(path, content, stat.S_IMODE(os.stat(source).st_mode) if mode is None else mode)

    def tar(self):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(self.entries):
                entry, content = self.entries[path]
                archive.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


# --- programs of this machine -----------------------------------------------------------------


def is_static(path):
    """True if an x86_64 ELF program names no interpreter (PT_INTERP, type 3), so that it runs without any library."""
    with open(path, "rb") as stream:
        head = stream.read(64)
        if head[:5] != b"\x7fELF\x02":
            raise ImageError(f"{path} is not a 64-bit ELF program")
        offset, size = int.from_bytes(head[32:40], "little"), int.from_bytes(head[54:56], "little")
        count = int.from_bytes(head[56:58], "little")
        stream.seek(offset)
        table = stream.read(size * count)
    return all(int.from_bytes(table[i : i + 4], "little") != 3 for i in range(0, size * count, size))


def find_program(name):
    for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    return None


def shared_libraries(path):
    """Paths of all libraries, and the loader, that ldd finds for a program; empty for a static one or a script."""
    found = subprocess.run(["ldd", path], capture_output=True, text=True, env={"PATH": PATH, "LC_ALL": "C"})
    if "not found" in found.stdout:
        raise ImageError(f"{path} lacks a library: {found.stdout.strip()}")
    return re.findall(r"(/\S+) \(0x", found.stdout)


def place(path):
    """Where a file of this machine lies in an image: its folder's real path, since /bin and /lib are links there too."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def static_program(path, cure):
    if not path or not os.path.exists(path):
        raise ImageError(f"{path or 'a program'} is missing: {cure}")
    if not is_static(path):
        raise ImageError(f"{path} is linked dynamically and cannot run in an image without libraries: {cure}")
    return path


# --- the OCI layout ---------------------------------------------------------------------------


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Image:
    """One image with one layer. `config` takes the keys of the OCI image configuration: User, Entrypoint, Cmd, Env…"""

    def __init__(self, name, tag, tree, **config):
        self.name, self.reference = name, f"{REGISTRY}/{name}:{tag}"
        tar = tree.tar()
        layer = gzip.compress(tar, compresslevel=1, mtime=0)
        configuration = canonical({
            "architecture": "amd64",
            "os": "linux",
            "created": EPOCH,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]},
            "history": [{"created": EPOCH, "created_by": "images.py"}],
        })
        manifest = canonical({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._descriptor("application/vnd.oci.image.config.v1+json", configuration),
            "layers": [self._descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        })
        self.digest, self.size = digest_of(manifest), len(layer)
        self._manifest, self._blobs = manifest, [configuration, layer, manifest]

    @staticmethod
    def _descriptor(media_type, content):
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

    def write(self, folder):
        """Writes NAME.tar by way of a temporary name; returns its path."""
        entry = self._descriptor("application/vnd.oci.image.manifest.v1+json", self._manifest)
        entry["annotations"] = {"io.containerd.image.name": self.reference}
        entry["platform"] = {"architecture": "amd64", "os": "linux"}
        layout = Tree()
        layout.file("oci-layout", canonical({"imageLayoutVersion": "1.0.0"}))
        layout.file("index.json", canonical({"schemaVersion": 2, "manifests": [entry]}))
        for blob in self._blobs:
            layout.file("blobs/" + digest_of(blob).replace(":", "/"), blob)
        path = os.path.join(folder, self.name + ".tar")
        with open(path + ".new", "wb") as stream:
            stream.write(layout.tar())
        os.rename(path + ".new", path)
        return path


# --- the images of the tests ------------------------------------------------------------------

# Programs of the build image: required ones first, the others are left out with a note. Deliberately
# without an SSH or SFTP server: whatever serves SSH in such a pod must have been brought along.
BUILD_IMAGE_REQUIRED = """
    bash
    basename cat chgrp chmod chown cp cut date dd df dirname du echo env expr false head hostname id install
    ln ls md5sum mkdir mkfifo mktemp mv nproc od printenv printf pwd readlink realpath rm rmdir seq sha256sum
    sleep sort split stat stty sync tail tee test timeout touch tr true truncate tty uname uniq wc who whoami yes
    grep sed gzip gunzip zcat tar find xargs ps kill
""".split()
BUILD_IMAGE_OPTIONAL = "git rsync less diff cmp awk top free clear tput which make setsid".split()
TERMINALS = ("d/dumb", "l/linux", "s/screen", "t/tmux-256color", "v/vt100", "x/xterm", "x/xterm-256color")

BUILD_SH = """\
#!/bin/bash
# The build of the failing project: compiles, tests, and one test fails.
set -u
cd "$(dirname "$0")" || exit 2
mkdir -p out
echo "==> compile"
tr a-z A-Z < src/greeting.txt > out/greeting.txt
echo "==> test"
failed=0
for expectation in tests/*.expected; do
    name=$(basename "$expectation" .expected)
    if [ "$(cat "$expectation")" = "$(cat "out/$name")" ]; then
        echo "ok      $name"
    else
        echo "FAILED  $name: expected '$(cat "$expectation")', got '$(cat "out/$name")'"
        failed=1
    fi
done
[ "$failed" = 0 ] && echo "==> passed" && exit 0
echo "==> test failure, see above" >&2
exit 1
"""


def add_program(tree, path):
    """A program under its own name with its libraries. A link (git-upload-pack, awk) becomes the file it leads to."""
    tree.copy(place(path), path, 0o755)
    for library in shared_libraries(path):
        tree.copy(place(library), library)


def add_programs(tree, note):
    for name in BUILD_IMAGE_REQUIRED + BUILD_IMAGE_OPTIONAL:
        path = find_program(name)
        if path:
            add_program(tree, path)
        elif name in BUILD_IMAGE_REQUIRED:
            raise ImageError(f"{name} is not on this machine, and the build image needs it")
        else:
            note(f"ci-build: {name} is not on this machine, left out")
    for name in ("git-upload-pack", "git-receive-pack", "git-upload-archive"):
        if "usr/bin/git" in tree.entries:
            tree.link("usr/bin/" + name, "git")


def add_system_files(tree):
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink("/" + name):
            tree.folder("usr/" + name)
            tree.link(name, "usr/" + name)
    tree.link(place("/bin/sh"), "bash")
    tree.file("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    tree.file("etc/group", "root:x:0:\n")
    tree.file("etc/os-release", 'NAME="Build image"\nID=ci-build\nVERSION_ID="1"\n')
    tree.folder("root", 0o700)
    tree.folder("tmp", 0o1777)
    tree.folder("var/tmp", 0o1777)
    for name in TERMINALS:
        for folder in ("/lib/terminfo", "/usr/share/terminfo"):
            if os.path.exists(f"{folder}/{name}"):
                tree.copy(place(f"{folder}/{name}"), f"{folder}/{name}", 0o644)
                break


def add_failing_project(tree):
    tree.file("workspace/README", "A small project whose build fails. Run ./build.sh, mend src/greeting.txt, run it again.\n")
    tree.file("workspace/build.sh", BUILD_SH, 0o755)
    tree.file("workspace/src/greeting.txt", "helo, sandglass\n")
    tree.file("workspace/tests/greeting.txt.expected", "HELLO, SANDGLASS\n")


def build_image(options):
    tree = Tree()
    add_system_files(tree)
    add_programs(tree, options.note)
    add_failing_project(tree)
    environment = [
        f"PATH={PATH}", "CI=true", "GOFLAGS=-mod=vendor", "LANG=C.UTF-8", "BUILD_NUMBER=42", "BUILD_URL=https://ci.invalid/job/42",
    ]
    return Image("ci-build", "1", tree, User="root", WorkingDir="/workspace", Env=environment, Cmd=["/bin/bash"])


def pause_image(options):
    tree = Tree()
    tree.copy("pause", static_program(os.path.join(options.bin, "pause"), "run e2e/cluster/build"), 0o755)
    return Image("pause", "3.10", tree, User="65535:65535", Entrypoint=["/pause"])


def sandglass_image(options):
    if not (options.sandglass and options.agent):
        raise ImageError("the sandglass image needs --sandglass PATH and --agent PATH")
    cure = "build it for the target x86_64-unknown-linux-musl"
    tree = Tree()
    tree.copy("bin/sandglass", static_program(options.sandglass, cure), 0o755)
    tree.copy("bin/sandglass-agent", static_program(options.agent, cure), 0o755)
    if options.power:
        tree.copy("bin/sandglass-power", static_program(options.power, cure), 0o755)
    tree.folder("tmp", 0o1777)
    return Image("sandglass", "e2e", tree, User="65532:65532", Entrypoint=["/bin/sandglass"], Env=["PATH=/bin"])


def bare_image(options):
    """No shell, no user, no libraries: the poorest image a build can fail in."""
    tree = Tree()
    tree.copy("netprobe", static_program(os.path.join(options.bin, "netprobe"), "run e2e/cluster/build"), 0o755)
    return Image("bare", "1", tree, Entrypoint=["/netprobe"], Cmd=["wait"])


def tools_image(options):
    """To be mounted as an image volume: nothing outside /tools, no shell in PATH, nothing that traces."""
    tree = Tree()
    tree.copy("tools/busybox", static_program(find_program("busybox"), "install busybox-static"), 0o755)
    return Image("tools", "1", tree)


def probe_image(options):
    tree = Tree()
    busybox = static_program(find_program("busybox"), "install busybox-static")
    tree.copy("bin/busybox", busybox, 0o755)
    for name in sorted(set(subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split())):
        if name != "busybox":
            tree.link("bin/" + name, "busybox")
    tree.copy("netprobe", static_program(os.path.join(options.bin, "netprobe"), "run e2e/cluster/build"), 0o755)
    tree.link("bin/netprobe", "/netprobe")
    tree.folder("tmp", 0o1777)
    return Image("probe", "1", tree, Env=["PATH=/bin"], Cmd=["/netprobe", "wait"])


IMAGES = {
    "pause": pause_image,
    "sandglass": sandglass_image,
    "ci-build": build_image,
    "bare": bare_image,
    "tools": tools_image,
    "probe": probe_image,
}


def record_digests(folder, images):
    """Merges into digests.json, so that a run with --only keeps what earlier runs wrote."""
    path = os.path.join(folder, "digests.json")
    digests = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as stream:
            digests = json.load(stream)
    digests.update({image.reference: image.digest for image in images})
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump(digests, stream, indent=2, sort_keys=True)
        stream.write("\n")
    os.rename(path + ".new", path)


def arguments():
    cache = os.environ.get("SANDGLASS_E2E_CACHE") or os.path.expanduser("~/.cache/sandglass-e2e")
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("outdir", metavar="OUTDIR")
    parser.add_argument("--sandglass", metavar="PATH", help="static sandglass program")
    parser.add_argument("--agent", metavar="PATH", help="static sandglass-agent program")
    parser.add_argument("--power", metavar="PATH", help="static sandglass-power program")
    parser.add_argument("--only", metavar="NAME", action="append", choices=sorted(IMAGES), help="only this image (may be repeated)")
    parser.add_argument("--bin", metavar="DIR", default=os.path.join(cache, "bin"), help="where build put pause and netprobe")
    options = parser.parse_args()
    options.note = lambda text: print(text, file=sys.stderr)
    return options


def main():
    options = arguments()
    names = options.only or list(IMAGES)
    if not options.only and not (options.sandglass and options.agent):
        options.note("sandglass: no --sandglass and --agent given, left out")
        names.remove("sandglass")
    os.makedirs(options.outdir, exist_ok=True)
    images = []
    for name in names:
        image = IMAGES[name](options)
        images.append(image)
        print(f"{image.reference} {image.digest} {image.size / 1e6:.1f} MB {image.write(options.outdir)}")
    record_digests(options.outdir, images)


if __name__ == "__main__":
    try:
        main()
    except (ImageError, OSError) as problem:
        sys.exit(f"images.py: {problem}")
