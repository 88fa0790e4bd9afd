"""What the two clients judge differently, on purpose: each case is made and shown, so that the list stays true."""

import base64
import json
import os
import shutil

import model_signing

from identities import Identity
from trees import Tree

ACCEPTED, REFUSED = "accepted", "refused"


class Case:
    """A small folder with its signature, and what is odd about it."""

    def __init__(self, place, clients):
        self.place, self.clients = place, clients
        self.tree = Tree(0, place)
        shutil.rmtree(self.tree.folder)
        (self.tree.folder / "sub").mkdir(parents=True)
        self.tree.ignored = []
        for name in ["file", "sub/file"]:
            (self.tree.folder / name).write_bytes(b"content")
        self.signature = place / "case.sig"
        self.identity = Identity(place / "identity", "P-256")
        self.signer = "theirs"
        self.ignore_unsigned = False

    def sign(self):
        signed, told = self.clients[self.signer].sign(self.tree, self.signature, self.identity)
        assert signed, told

    def verdicts(self):
        def verdict(who):
            return self.clients[who].verify(self.tree, self.signature, self.identity, self.ignore_unsigned)
        return {who: ACCEPTED if verdict(who)[0] else REFUSED for who in self.clients}

    def edit(self, change):
        self.sign()
        value = json.loads(self.signature.read_text())
        self.signature.write_text(change(value))


def duplicate_key(case):
    case.edit(lambda value: '{"mediaType":"another",' + json.dumps(value)[1:])


def two_signatures(case):
    def change(value):
        value["dsseEnvelope"]["signatures"] *= 2
        return json.dumps(value)
    case.edit(change)


def loose_base64(case):
    def change(value):
        value["dsseEnvelope"]["payload"] = "!" + value["dsseEnvelope"]["payload"]
        return json.dumps(value)
    case.edit(change)


def backslash(case):
    (case.tree.folder / "a\\b").write_bytes(b"content")
    case.sign()


def expired(case):
    case.tree.method = "certificate"
    case.identity = Identity(case.place / "expired", "P-256", days=-2)
    case.sign()


def rsa_authority(case):
    case.tree.method = "certificate"
    case.identity = Identity(case.place / "rsa", "P-256", authority="rsa")
    case.sign()


def empty(case):
    case.tree.folder = case.place / "empty"
    case.tree.folder.mkdir()
    case.sign()


def unsigned_in_shards(case):
    case.tree.shards = True
    case.sign()
    (case.tree.folder / "added").write_bytes(b"added")
    case.ignore_unsigned = True


def blake2(case):
    hashing = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake2")
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=case.identity.private)
    config.set_hashing_config(hashing).sign(case.tree.folder, case.signature)


def blake3(case):
    hashing = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake3")
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=case.identity.private)
    config.set_hashing_config(hashing).sign(case.tree.folder, case.signature)


def below_a_link(case):
    folder = case.tree.folder / "real"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    case.sign()
    folder.rename(case.place / "moved")
    os.symlink(case.place / "moved", folder)
    case.ignore_unsigned = True


def before_the_standard(case):
    """The statement of version 0.2, whose subjects are the files."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing._signing.sign_sigstore_pb import pae

    def change(value):
        payload = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
        resources = payload["predicate"]["resources"]
        payload["predicateType"] = "https://model_signing/Digests/v0.1"
        payload["subject"] = [{"name": each["name"], "digest": {"sha256": each["digest"]}} for each in resources]
        raw = json.dumps(payload).encode()
        key = serialization.load_pem_private_key(case.identity.private.read_bytes(), None)
        signature = key.sign(pae(raw), ec.ECDSA(hashes.SHA256()))
        value["dsseEnvelope"]["payload"] = base64.b64encode(raw).decode()
        value["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        return json.dumps(value)
    case.edit(change)


# (what, how it is made, ours, theirs, why)
CASES = [
    ("a key twice in the signature file", duplicate_key, REFUSED, ACCEPTED, "two readers could take another one each"),
    ("two signatures in one envelope", two_signatures, REFUSED, ACCEPTED,
     "the format allows one; theirs reads the first"),
    ("base64 with other characters in it", loose_base64, REFUSED, ACCEPTED, "one text for one content"),
    ("a backslash in a name", backslash, REFUSED, ACCEPTED, "elsewhere it separates folders and leads out of this one"),
    ("an expired certificate", expired, REFUSED, ACCEPTED, "theirs judges a certificate at the moment when it began"),
    ("an authority with an RSA key", rsa_authority, REFUSED, ACCEPTED, "elliptic curves alone, as for the keys"),
    ("a signature about no file", empty, REFUSED, ACCEPTED, "the format wants one resource or more"),
    ("shards, with unsigned files ignored", unsigned_in_shards, ACCEPTED, REFUSED,
     "theirs looks for a file with a shard's name"),
    ("BLAKE2b", blake2, ACCEPTED, REFUSED, "theirs signs with it; its command line verifies SHA-256 alone"),
    ("BLAKE3", blake3, ACCEPTED, REFUSED, "theirs signs with it; its command line verifies SHA-256 alone"),
    ("a signed file below a link, with unsigned files ignored", below_a_link, REFUSED, ACCEPTED,
     "theirs looks at the last part of a path alone"),
    ("the statement from before the standard", before_the_standard, REFUSED, ACCEPTED,
     "it says neither how nor what was left out"),
]


def show(place, clients, failures):
    """Makes each case; returns what was found, and adds what is not as listed to `failures`."""
    found = []
    for number, (name, make, ours, theirs, reason) in enumerate(CASES):
        case = Case(place / str(number), clients)
        make(case)
        verdicts = case.verdicts()
        if verdicts != {"ours": ours, "theirs": theirs}:
            failures.append(f"{name}: expected ours {ours}, theirs {theirs}; found {verdicts}")
        found.append((name, verdicts, reason))
    return found
