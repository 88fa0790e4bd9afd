#!/usr/bin/env python3
"""Holds `ampoule-seal oms` against the reference client on generated folders: compare.py BINARY [TREES].

Each folder is signed by both and verified by both, then changed in one thing, and verified by both again. A verdict that
is not the right one is a failure; the differences that are meant are in differences.py, each with its reason, and each is
shown to be there. The result is printed as a table.
"""

import collections
import pathlib
import sys
import tempfile

import differences
from clients import Ours, Theirs
from identities import CURVES, Identity
from trees import Tree

WHO = ["ours", "theirs"]


def main():
    binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    counts, failures = collections.Counter(), []
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place).resolve()
        identities = {curve: Identity(place / curve, curve) for curve in CURVES}
        clients = {"ours": Ours(pathlib.Path(binary).resolve()), "theirs": Theirs()}
        for number in range(count):
            tree = Tree(number, place / "trees")
            failures += compare(tree, identities[tree.curve], clients, counts)
        known = differences.show(place / "known", clients, failures)
    print_table(count, counts, known)
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{sum(counts.values())} verdicts on {count} folders, {len(failures)} wrong")
    sys.exit(1 if failures else 0)


def compare(tree, identity, clients, counts):
    """Signs, verifies, changes and verifies one folder; returns what was wrong."""
    failures = []
    kind = (tree.method, tree.curve, "shards" if tree.shards else "files")

    def expect(what, verdict, expected):
        accepted, told = verdict
        counts[(*kind, "accepted" if accepted else "refused")] += 1
        if accepted != expected:
            failures.append(f"folder {tree.number}, {' '.join(kind)}: {what}: accepted is {accepted}: {told[:300]}")

    # Inside the folder for every second one, where it must not count as a part of the model.
    place = tree.folder if tree.number % 2 else tree.folder.parent
    signatures = {who: place / f"{who} {tree.number}.sig" for who in WHO}
    if tree.allow_symlinks:
        tree.allow_symlinks = False
        for who in WHO:
            refused = clients[who].sign(tree, signatures[who], identity)
            expect(f"signed by {who} with links that are not allowed", refused, False)
        tree.allow_symlinks = True
    for who in WHO:
        expect(f"signed by {who}", clients[who].sign(tree, signatures[who], identity), True)
        # One signature lies there at a time: the other would be a file that was not signed.
        content = signatures[who].read_bytes()
        signatures[who].unlink()
        signatures[who] = (signatures[who], content)
    with_each(signatures, lambda who, path: [
        expect(f"signed by {who}, verified by {by}", clients[by].verify(tree, path, identity), True) for by in WHO
    ])
    changed, must_refuse = tree.change()
    with_each(signatures, lambda who, path: [
        expect(f"signed by {who}, {changed}, verified by {by}", clients[by].verify(tree, path, identity),
               not must_refuse)
        for by in WHO
    ])
    if changed == "a file added" and not tree.shards:
        with_each(signatures, lambda who, path: [
            expect(f"signed by {who}, {changed} and ignored, verified by {by}",
                   clients[by].verify(tree, path, identity, ignore_unsigned=True), True)
            for by in WHO
        ])
    return failures


def with_each(signatures, check):
    for who, (path, content) in signatures.items():
        path.write_bytes(content)
        check(who, path)
        path.unlink()


def print_table(count, counts, known):
    print("| method | curve | serialization | accepted | refused |\n|---|---|---|---|---|")
    for kind in sorted({key[:3] for key in counts}):
        print(f"| {' | '.join(kind)} | {counts[(*kind, 'accepted')]} | {counts[(*kind, 'refused')]} |")
    print("\n| what the clients judge differently | ours | theirs | why |\n|---|---|---|---|")
    for name, verdicts, reason in known:
        print(f"| {name} | {verdicts['ours']} | {verdicts['theirs']} | {reason} |")
    print()


if __name__ == "__main__":
    main()
