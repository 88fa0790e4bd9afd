// Holds the attestations of a sealed bundle against Sigstore's own verifier: attestations.mjs LAYOUT PUBLIC_KEY.
//
// LAYOUT is the folder that a bundle unpacks to. Each of its three statements must be there and verify with the key;
// after one change to its payload, or with another key, none may. A key needs no transparency log and no timestamp.

import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";

import { bundleFromJSON } from "@sigstore/bundle";
import { TrustedRoot } from "@sigstore/protobuf-specs";
import { Verifier, toSignedEntity, toTrustMaterial } from "@sigstore/verify";

const MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENTS = [
  "https://model_signing/signature/v1.0",
  "https://sigstore.dev/cosign/sign/v1",
  "urn:ampoule:bundle-release:v1",
];

const [layout, publicKey] = process.argv.slice(2);
const pem = fs.readFileSync(publicKey, "utf8");
const id = crypto.createHash("sha256").update(pem).digest("hex");
const stranger = crypto.generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey;
const der = (key) => key.export({ type: "spki", format: "der" });

const blobs = path.join(layout, "blobs", "sha256");
const attestations = fs
  .readdirSync(blobs)
  .map((name) => path.join(blobs, name))
  .filter((file) => fs.statSync(file).size < 16 << 20 && fs.readFileSync(file, "utf8").includes(MEDIA_TYPE))
  .map((file) => JSON.parse(fs.readFileSync(file, "utf8")))
  .filter((json) => json.mediaType === MEDIA_TYPE);

function verifies(json, key) {
  const material = toTrustMaterial(TrustedRoot.fromJSON({}), { [id]: { rawBytes: der(key) } });
  const verifier = new Verifier(material, { ctlogThreshold: 0, tlogThreshold: 0, tsaThreshold: 0 });
  try {
    verifier.verify(toSignedEntity(bundleFromJSON(json)));
    return true;
  } catch (error) {
    return error.code === "SIGNATURE_ERROR" ? false : assert(false, `no verdict: ${error}`);
  }
}

function assert(holds, text) {
  if (!holds) {
    console.error(`FAILED: ${text}`);
    process.exit(1);
  }
}

const found = new Set();
for (const json of attestations) {
  const payload = Buffer.from(json.dsseEnvelope.payload, "base64");
  const { predicateType } = JSON.parse(payload);
  found.add(predicateType);
  assert(verifies(json, crypto.createPublicKey(pem)), `${predicateType} does not verify`);
  assert(!verifies(json, stranger), `${predicateType} verifies with another key`);
  payload[payload.length - 3] ^= 1;
  const changed = { ...json, dsseEnvelope: { ...json.dsseEnvelope, payload: payload.toString("base64") } };
  assert(!verifies(changed, crypto.createPublicKey(pem)), `${predicateType} verifies after a change`);
  console.log(`verified: ${predicateType}`);
}
assert([...found].sort().join() === STATEMENTS.join(), `expected ${STATEMENTS}, found ${[...found].sort()}`);
