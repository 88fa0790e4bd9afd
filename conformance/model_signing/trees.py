"""Model folders with everything that makes two clients disagree, and one change to each: a function of a number."""

import os
import pathlib
import random
import shutil

# Each is one file name of a POSIX system. A colon separates the range of a shard and is added for whole files only.
NAMES = [
    "weights.safetensors", "config.json", "two words", " leading space", "trailing space ", "a..b", "..two dots",
    ".hidden", "-rf", "--help", "caf\u00e9", "cafe\u0301", "\u6a21\u578b", "\U0001f600", "\u202eright to left",
    "quote\"'", "tab\there", "line\nfeed", "\x01control", "$HOME", "%2e%2e", "a,b;c", "*?[x]", "~", "@", "#",
    "model.sig.old", "UPPER", "upper", "n" * 200, "\u00df", "\u017f", "\ufb01", "\u1e9e", "a-b", "a", "a b",
]
FOLDERS = ["sub", "a", "deep folder", "\u00e9", "e\u0301", ".cache", "-dash", "x.git", "sub-1"]
SHARD_SIZE = 1000
SIZES = [0, 1, 17, 999, 1000, 1001, 2000, 2500, 70_000]
GIT = [".git/config", ".git/objects/ab/cdef", ".gitignore", ".gitattributes", ".github/workflows/ci.yml"]


class Tree:
    """A folder and how it is to be signed; `signed` are the files that a signature must be about."""

    def __init__(self, number, place):
        self.number = number
        self.random = random.Random(f"model signing {number}")
        self.folder = pathlib.Path(place) / f"model {number}"
        self.curve = ["P-256", "P-384", "P-521"][number % 3]
        self.method = ["key", "certificate"][number // 3 % 2]
        self.shards = number // 6 % 2 == 1
        self.ignored = []
        self.signed = []
        self.allow_symlinks = number % 5 == 3
        self._write()

    def _write(self):
        draw = self.random
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        names = NAMES + ([] if self.shards else ["a:b", "0:1:2", ":"])
        for _ in range(draw.randint(1, 24)):
            parts = [draw.choice(FOLDERS) for _ in range(draw.choice([0, 0, 0, 1, 1, 2, 5]))]
            self._add("/".join([*parts, draw.choice(names)]), draw.choice(SIZES))
        # A file that is there and not empty, so that each change below has something to change.
        self._add("always.bin", 2500)
        if draw.random() < 0.3:
            self._add("/".join(["d"] * 40 + ["deepest"]), 5)
        if draw.random() < 0.5:
            (self.folder / "empty" / "emptier").mkdir(parents=True)
        if draw.random() < 0.5:
            for name in draw.sample(GIT, 3):
                self._write_file(name, 10)
            self._add("sub/.git/config", 10)
        if draw.random() < 0.4:
            self._write_file("ignored/file", 10)
            self._write_file("ignored file", 10)
            self.ignored = ["ignored", "ignored file"]
        if self.allow_symlinks:
            os.symlink("always.bin", self.folder / "link to a file")
            self.signed.append("link to a file")
            os.symlink("sub", self.folder / "link to a folder")
            (self.folder / "sub").mkdir(exist_ok=True)
            outside = self.folder.parent / f"outside {self.number}"
            outside.write_bytes(b"outside")
            os.symlink(outside, self.folder / "link out of the folder")
            self.signed.append("link out of the folder")

    def _add(self, name, size):
        # Of two names that need one place as a file and as a folder, the first has it.
        if self._write_file(name, size) and name not in self.signed:
            self.signed.append(name)

    def _write_file(self, name, size):
        path = self.folder / name
        if path.is_dir():
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.random.randbytes(size))
        except (FileExistsError, NotADirectoryError):
            return False
        return True

    def full(self):
        """The signed files that are not empty, and are files; in shards an empty file is not signed."""
        paths = [self.folder / name for name in self.signed]
        return [path for path in paths if not path.is_symlink() and path.stat().st_size > 0]

    def change(self):
        """Changes one thing; returns its name, and whether a client must refuse the folder after it."""
        kinds = [self._flip, self._shorten, self._lengthen, self._grow, self._remove, self._rename, self._link, self._git]
        # Shifted each time around, so that every kind meets every way of signing.
        return kinds[(self.number + self.number // len(kinds)) % len(kinds)]()

    def _victim(self):
        return self.random.choice(self.full())

    def _flip(self):
        path = self._victim()
        content = bytearray(path.read_bytes())
        content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
        path.write_bytes(content)
        return "one bit flipped", True

    def _shorten(self):
        path = self._victim()
        os.truncate(path, path.stat().st_size - 1)
        return "one byte cut off", True

    def _lengthen(self):
        path = self._victim()
        path.write_bytes(path.read_bytes() + b"\0")
        return "one byte added", True

    def _grow(self):
        (self._victim().parent / "added").write_bytes(b"added")
        return "a file added", True

    def _remove(self):
        self._victim().unlink()
        return "a file removed", True

    def _rename(self):
        path = self._victim()
        path.rename(path.with_name("renamed"))
        return "a file renamed", True

    def _link(self):
        path = self._victim()
        elsewhere = self.folder.parent / f"elsewhere {self.number}"
        elsewhere.write_bytes(path.read_bytes())
        path.unlink()
        os.symlink(elsewhere, path)
        # The content is the same, so where links are followed nothing has changed.
        return "a file replaced by a link", not self.allow_symlinks

    def _git(self):
        (self.folder / ".git").mkdir(exist_ok=True)
        (self.folder / ".git" / "HEAD").write_bytes(b"ref: refs/heads/other")
        return "the repository changed", False
