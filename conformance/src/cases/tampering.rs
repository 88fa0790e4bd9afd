//! A bundle that is not what was sealed is refused, wherever it differs: by `verify`, and by `serve` before it listens.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::catalogue::Case;
use crate::site::{Ended, Site};

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-TAM-01", "The bundle as it was sealed is verified, and the report says by whom", untouched),
    Case::installed("AMP-TAM-02", "One bit flipped in the first part is refused with 10 or 11", first_part),
    Case::installed("AMP-TAM-03", "One bit flipped in the middle is refused with 10 or 11", middle_part),
    Case::installed("AMP-TAM-04", "One bit flipped in the last part is refused with 10 or 11", last_part),
    Case::installed("AMP-TAM-05", "A bundle that was cut short is refused with 10 or 11", cut_short),
    Case::installed("AMP-TAM-06", "A bundle with more bytes after its end is refused with 10 or 11", extended),
    Case::installed("AMP-TAM-07", "A trust root that pins other keys refuses the bundle with 11", other_root),
    Case::installed("AMP-TAM-08", "Files that are no bundle are refused with 10", no_bundle),
];

/// Unreadable, and signature or digest.
const REFUSALS: [i32; 2] = [10, 11];

fn untouched(site: &Site) -> anyhow::Result<()> {
    let (bundle, root) = (site.bundle().display().to_string(), site.root().display().to_string());
    let report = site.run(&["verify", &bundle, "--trust-root", &root, "--json"])?.json()?;
    ensure!(report["verified"] == true, "`verified` is {}", report["verified"]);
    ensure!(report["bundle"]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{report}");
    let signers = report["bundle"]["signers"].as_array().context("the report names no signers")?;
    ensure!(!signers.is_empty(), "the report names no signer");
    Ok(())
}

fn first_part(site: &Site) -> anyhow::Result<()> {
    // The names, sizes and checksums of the first headers, and what follows them.
    flips_are_refused(site, |_| vec![0, 100, 130, 150, 512, 700, 1024, 1600, 2100])
}

fn middle_part(site: &Site) -> anyhow::Result<()> {
    flips_are_refused(site, |length| (1..=5).map(|part| length * part / 6 + part).collect())
}

fn last_part(site: &Site) -> anyhow::Result<()> {
    // The archive's end is zeros, in which nothing is free to differ either.
    flips_are_refused(site, |length| [1, 2, 513, 1025, 2000, 5000].iter().map(|back| length - back).collect())
}

fn cut_short(site: &Site) -> anyhow::Result<()> {
    let copy = copy_of_bundle(site, "cut.bundle")?;
    let length = fs::metadata(&copy)?.len();
    // Downwards, because each cut is made in the same file.
    for left in [length - 1, length - 512, length - 1024, length / 2, 4096, 512, 1] {
        OpenOptions::new().write(true).open(&copy)?.set_len(left)?;
        refused(&verify(site, &copy, site.root())?, &format!("{left} of {length} bytes"))?;
    }
    serve_is_refused(site, &copy)
}

fn extended(site: &Site) -> anyhow::Result<()> {
    let copy = copy_of_bundle(site, "extended.bundle")?;
    let length = fs::metadata(&copy)?.len();
    for (more, what) in
        [(&b"\0"[..], "one zero"), (&[0; 512], "a block of zeros"), (&[0x41; 10_240], "a record of letters")]
    {
        let file = OpenOptions::new().write(true).open(&copy)?;
        file.set_len(length)?;
        file.write_all_at(more, length)?;
        refused(&verify(site, &copy, site.root())?, what)?;
    }
    serve_is_refused(site, &copy)
}

fn other_root(site: &Site) -> anyhow::Result<()> {
    let root = site.folder().join("other-root.json");
    fs::write(&root, root_with_another_key(&fs::read_to_string(site.root())?)?)?;
    let ended = verify(site, site.bundle(), &root)?;
    ended.requires(11, &[])?;
    says_nothing_verified(&ended)?;
    site.refuses_to_serve(&site.flags_for(site.bundle(), &root, site.keys()), 11, &["refused"])
}

fn no_bundle(site: &Site) -> anyhow::Result<()> {
    let file = site.folder().join("text.bundle");
    for (bytes, what) in [(&b""[..], "an empty file"), (&[b'a'; 100_000], "a file of letters"), (&[0; 10_240], "zeros")]
    {
        fs::write(&file, bytes)?;
        verify(site, &file, site.root())?.requires(10, &[]).context(what)?;
    }
    site.refuses_to_serve(&site.flags_for(&file, site.root(), site.keys()), 10, &["text.bundle"])?;
    let missing = site.folder().join("no-such.bundle");
    site.refuses_to_serve(&site.flags_for(&missing, site.root(), site.keys()), 10, &["no-such.bundle"])
}

/// Flips one bit at each place in turn, and requires each such bundle to be refused.  Serving is tried once: it takes the
/// same way as `verify` and each try costs a start.
fn flips_are_refused(site: &Site, places: fn(u64) -> Vec<u64>) -> anyhow::Result<()> {
    let copy = copy_of_bundle(site, "flipped.bundle")?;
    let places = places(fs::metadata(&copy)?.len());
    for (number, place) in places.iter().enumerate() {
        let bit = 1 << (number % 8);
        flip(&copy, *place, bit)?;
        let verified = verify(site, &copy, site.root())?;
        refused(&verified, &format!("bit {bit:#04x} of byte {place}"))?;
        if number == places.len() / 2 {
            serve_is_refused(site, &copy)?;
        }
        flip(&copy, *place, bit)?;
    }
    // The copy is whole again, so that what was refused were the flips.
    verify(site, &copy, site.root())?.requires(0, &[])
}

pub(super) fn flip(path: &Path, place: u64, bit: u8) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place)?;
    file.write_all_at(&[byte[0] ^ bit], place)?;
    Ok(())
}

pub(super) fn copy_of_bundle(site: &Site, name: &str) -> anyhow::Result<PathBuf> {
    let copy = site.folder().join(name);
    // A sealed bundle is often read-only, and so would be its copy; hence the bytes alone.
    std::io::copy(&mut File::open(site.bundle())?, &mut File::create(&copy)?)?;
    Ok(copy)
}

fn verify(site: &Site, bundle: &Path, root: &Path) -> anyhow::Result<Ended> {
    let (bundle, root) = (bundle.display().to_string(), root.display().to_string());
    site.run(&["verify", &bundle, "--trust-root", &root, "--json"])
}

fn serve_is_refused(site: &Site, bundle: &Path) -> anyhow::Result<()> {
    let flags = site.flags_for(bundle, site.root(), site.keys());
    site.refuses_to_serve(&flags, 10, &["refused"]).or_else(|_| site.refuses_to_serve(&flags, 11, &["refused"]))
}

fn refused(ended: &Ended, what: &str) -> anyhow::Result<()> {
    let code = ended.code;
    ensure!(code.is_some_and(|code| REFUSALS.contains(&code)), "{what}: `verify` ended with {code:?}");
    ended.requires(code.unwrap_or_default(), &["refused"]).context(what.to_owned())?;
    says_nothing_verified(ended)
}

fn says_nothing_verified(ended: &Ended) -> anyhow::Result<()> {
    let report: Value = serde_json::from_str(&ended.stdout).context("the refusal is no JSON")?;
    ensure!(report["verified"] == false, "a refused bundle is reported as {report}");
    ensure!(report["exit_code"] == json!(ended.code), "the report's exit code is {}", report["exit_code"]);
    Ok(())
}

/// The same root with one key of ours in each role: whoever pins it trusts us, and not the vendor.
fn root_with_another_key(root: &str) -> anyhow::Result<String> {
    let mut root: Value = serde_json::from_str(root).context("the trust root is no JSON")?;
    let pem = KeyPair::generate()?.public_key_pem().replace("\r\n", "\n");
    let id = hex::encode(ring::digest::digest(&ring::digest::SHA256, pem.as_bytes()));
    let key = json!({ "keytype": "ecdsa", "keyval": { "public": pem }, "scheme": "ecdsa-sha2-nistp256" });
    root["signed"]["keys"] = json!({ &id: key });
    let roles = root["signed"]["roles"].as_object_mut().context("the trust root has no roles")?;
    for role in roles.values_mut() {
        *role = json!({ "keyids": [&id], "threshold": 1 });
    }
    Ok(root.to_string())
}
