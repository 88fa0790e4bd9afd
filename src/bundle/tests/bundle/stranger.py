"""Rebuilds a .bundle file from its free parts by FORMAT.md §1 to §5 alone, in Python's standard library.

Written from the page and not from the Rust code: when both give the same bytes, the page is complete.
Usage: stranger.py X.bundle   (exit 0 and `canonical`, or 1 and the first byte that differs)
"""

import base64
import hashlib
import json
import sys
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
SIGSTORE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENTS = [
    "urn:ampoule:bundle-release:v1",
    "https://model_signing/signature/v1.0",
    "https://sigstore.dev/cosign/sign/v1",
]


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(media_type, data, **more):
    return {"digest": digest(data), "mediaType": media_type, "size": len(data), **more}


def header(name, size, kind):
    block = bytearray(512)

    def put(offset, text):
        block[offset : offset + len(text)] = text

    put(0, name.encode())
    put(100, b"0000444\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0" + b" " * 8 + kind)
    put(257, b"ustar\0" + b"00")
    put(329, b"0000000\0" * 2)
    put(148, b"%06o\0 " % sum(block))
    return bytes(block)


def file(name, data):
    return header(name, len(data), b"0") + data + bytes(-len(data) % 512)


def padding(name, offset):
    blocks = next(n for n in range(1, 9) if (offset + 1024 + 512 * n) % 4096 == 0)
    record = b"%d comment=" % (512 * blocks)
    return header("PaxHeaders/" + name, 512 * blocks, b"x") + record.ljust(512 * blocks - 1, b" ") + b"\n"


def predicate_type(attestation):
    payload = base64.b64decode(json.loads(attestation)["dsseEnvelope"]["payload"], validate=True)
    return json.loads(payload)["predicateType"]


def rebuild(manifest, config, attestations, layers):
    attestations = sorted(attestations, key=lambda a: (STATEMENTS.index(predicate_type(a)), digest(a)))
    marks = [
        {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicate_type(a)}
        for a in attestations
    ]
    attaching = [
        canonical({
            "annotations": mark,
            "artifactType": SIGSTORE,
            "config": describe("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [describe(SIGSTORE, attestation)],
            "mediaType": MANIFEST,
            "schemaVersion": 2,
            "subject": describe(MANIFEST, manifest),
        })
        for attestation, mark in zip(attestations, marks)
    ]

    def index(manifests):
        return canonical({"manifests": manifests, "mediaType": INDEX, "schemaVersion": 2})

    model = describe(MANIFEST, manifest, artifactType=MODEL)
    listed = [describe(MANIFEST, a, artifactType=SIGSTORE, annotations=mark) for a, mark in zip(attaching, marks)]
    referrers_index = index(listed)
    bundle_index = index([model] + listed)
    ref_name = "org.opencontainers.image.ref.name"
    top = index([
        {**model, "annotations": {"kind": "dev.cosignproject.cosign/image", ref_name: "model"}},
        describe(INDEX, bundle_index, annotations={ref_name: "bundle"}),
        describe(INDEX, referrers_index, annotations={ref_name: digest(manifest).replace(":", "-")}),
    ])

    out = file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}') + file("index.json", top)
    written = set()
    small = [manifest, bundle_index, referrers_index]
    small += [blob for pair in zip(attaching, attestations) for blob in pair]
    small += [b"{}", config]
    for is_layer, blob in [(False, blob) for blob in small] + [(True, layer) for layer in layers]:
        name = "blobs/sha256/" + hashlib.sha256(blob).hexdigest()
        if name in written:
            continue
        written.add(name)
        if is_layer:
            out += padding(name, len(out))
        out += file(name, blob)
    return out + bytes(1024)


def main(path):
    blobs, order = {}, []
    with tarfile.open(path) as archive:
        for member in archive:
            data = archive.extractfile(member).read()
            order.append(member.name)
            blobs[member.name.removeprefix("blobs/sha256/")] = data
    for name, data in blobs.items():
        assert len(name) < 64 or hashlib.sha256(data).hexdigest() == name, name
    manifest = blobs[order[2].removeprefix("blobs/sha256/")]
    parsed = json.loads(manifest)
    assert canonical(parsed) == manifest, "the manifest is not canonical"
    attestations = [data for data in blobs.values() if data.startswith(b'{"dsseEnvelope":')]
    assert all(canonical(json.loads(a)) == a for a in attestations), "an attestation is not canonical"

    def blob(descriptor):
        data = blobs[descriptor["digest"].removeprefix("sha256:")]
        assert len(data) == descriptor["size"]
        return data

    expected = rebuild(manifest, blob(parsed["config"]), attestations, [blob(layer) for layer in parsed["layers"]])
    with open(path, "rb") as bundle:
        found = bundle.read()
    if found != expected:
        sys.exit(f"differs at byte {next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), 'end')}")
    print("canonical")


main(sys.argv[1])
