"""Writes the first inputs of each fuzz target from the committed fixtures, into corpus/<target>.

The fixtures hold one defect each, so that a fuzzer begins right beside every check. What it finds from there is added to
the same folders by `cargo xtask fuzz --keep`.
"""

import base64
import hashlib
import json
import pathlib
import tarfile
import zlib

HERE = pathlib.Path(__file__).parent
AGE_VECTORS = HERE.parent / "tests" / "age-vectors"
FIXTURES = HERE.parent.parent.parent / "bundles" / "fixtures"


def write(target: str, content: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(content).hexdigest()).write_bytes(content)


def blobs(path: pathlib.Path):
    """The blobs of a bundle, as far as Python can read it."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and member.name.startswith("blobs/"):
                    yield file.read()
    except (tarfile.TarError, OSError, UnicodeDecodeError):
        return


def seed(path: pathlib.Path) -> None:
    write("archive", path.read_bytes())
    for blob in blobs(path):
        if blob.startswith(b"GGUF"):
            write("gguf", blob)
        elif len(blob) > 9 and int.from_bytes(blob[:8], "little") < len(blob) and blob[8:9] == b"{":
            write("safetensors", blob)
        elif b'"dsseEnvelope"' in blob:
            write("attestation", blob)
            try:
                write("attestation", base64.b64decode(json.loads(blob)["dsseEnvelope"]["payload"]))
            except ValueError:
                pass
        elif b"vnd.cncf.model.manifest" in blob or b'"modelfs"' in blob:
            write("manifest", blob)


for bundle in sorted(FIXTURES.glob("*/defect.bundle")):
    if bundle.stat().st_size < 64 << 10:
        seed(bundle)
for vector in sorted(AGE_VECTORS.iterdir()):
    header, _, body = vector.read_bytes().partition(b"\n\n")
    if b"expect: " not in header:
        continue
    body = zlib.decompress(body) if b"compressed: zlib" in header else body
    # The reader's chunks have 64 KiB: one and a bit is enough to reorder and to cut.
    if len(body) < 72 << 10:
        write("age", body)
for root in sorted(FIXTURES.glob("*/root.json")):
    write("trust_root", root.read_bytes())
