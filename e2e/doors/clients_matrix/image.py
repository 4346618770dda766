#!/usr/bin/env python3
"""Writes the image of the session in which every client is tried: the build image, and what clients call on the far side.

usage: image.py OUTDIR REFERENCE
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "cluster"))
import images  # noqa: E402

PROGRAMS = ("scp", "rsync", "git", "tmux", "mosh-server", "nohup")
# The character set of the image's LANG: tmux and mosh-server want UTF-8.
LOCALE = "/usr/lib/locale/C.utf8"
# Parts of the standard library that no Ansible module imports, and that are large.
LEFT_OUT = ("test", "idlelib", "tkinter", "lib2to3", "ensurepip", "__pycache__", "dist-packages", "site-packages", "turtledemo", "pydoc_data")


def add_python(tree):
    """The system's own Python with its standard library."""
    program = "/usr/bin/python3"
    if not os.path.exists(program):
        raise images.ImageError("python3 is not on this machine: install python3")
    ask = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = subprocess.run([program, "-I", "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    images.add_program(tree, program)
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
        for name in files:
            path = os.path.join(folder, name)
            tree.copy(path, path)
            if name.endswith(".so"):
                for needed in images.shared_libraries(path):
                    tree.copy(images.place(needed), needed)


def add_locale(tree):
    for folder, _, files in os.walk(LOCALE):
        for name in files:
            tree.copy(os.path.join(folder, name), os.path.join(folder, name))


def main():
    folder, reference = sys.argv[1:]
    tree = images.Tree()
    images.add_system_files(tree)
    images.add_programs(tree, lambda text: print(text, file=sys.stderr))
    for name in PROGRAMS:
        path = images.find_program(name)
        if not path:
            raise images.ImageError(f"{name} is not on this machine, and the matrix needs it on the far side")
        images.add_program(tree, path)
    add_locale(tree)
    add_python(tree)
    images.add_failing_project(tree)
    name, tag = reference.removeprefix(images.REGISTRY + "/").split(":")
    environment = [f"PATH={images.PATH}", "CI=true", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"]
    image = images.Image(name, tag, tree, User="root", WorkingDir="/workspace", Env=environment, Cmd=["/bin/bash"])
    print(f"{image.reference} {image.digest} {image.size / 1e6:.1f} MB {image.write(folder)}")


if __name__ == "__main__":
    try:
        main()
    except (images.ImageError, OSError) as problem:
        sys.exit(f"image.py: {problem}")
