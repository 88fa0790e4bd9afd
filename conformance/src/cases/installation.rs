//! The installation itself: the appliance tells whether its own files are those that were signed.
//!
//! A binary that lies in no installed release has no list to be held against, so it is not judged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::catalogue::{Case, Skipped};
use crate::site::Site;

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-INS-01", "`verify-self` accepts the release as it was signed, and its own key alone", whole),
    Case::installed("AMP-INS-02", "`verify-self` names what is changed, missing or extra and ends with 11", damaged),
];

const LIST: &str = "RELEASE";
const SIGNATURE: &str = "RELEASE.sig";
const KEY: &str = "trust/vendor.pub";

fn whole(site: &Site) -> anyhow::Result<()> {
    let release = Release::of(site)?;
    let report = site.run(&["verify-self", "--json"])?.json()?;
    ensure!(report["verified"] == true, "`verified` is {}", report["verified"]);
    ensure!(report["release"] == json!(release.version), "the release is {} in {report}", release.version);
    ensure!(report["files"] == json!(release.files.len()), "{} files are listed: {report}", release.files.len());
    let key = fs::read(release.root.join(KEY)).context("the release has no key")?;
    let fingerprint = hex::encode(ring::digest::digest(&ring::digest::SHA256, &key));
    ensure!(report["signer"] == json!(fingerprint), "the key's fingerprint is {fingerprint}: {report}");
    site.run(&["verify-self", "--fingerprint", &fingerprint])?.requires(0, &[])?;
    site.run(&["verify-self", "--fingerprint", &"0".repeat(64)])?.requires(11, &[&fingerprint])
}

fn damaged(site: &Site) -> anyhow::Result<()> {
    let release = Release::of(site)?;
    let copy = release.copy_to(&site.folder().join("release"))?;
    let root = copy.display().to_string();
    let verify = || site.run(&["verify-self", "--json", "--root", &root]);
    let refused = |words: &str| -> anyhow::Result<()> {
        let ended = verify()?;
        ended.requires(11, &[words])?;
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).context("the refusal is no JSON")?;
        ensure!(report["verified"] == false && report["exit_code"] == 11, "a damaged release is reported as {report}");
        Ok(())
    };
    // Each damage is taken back, so that what is refused is the next one.
    let name = release.smallest().context("the release lists no file but its key")?;
    let file = copy.join(name);
    let bytes = fs::read(&file)?;
    let mut flipped = bytes.clone();
    if let Some(last) = flipped.last_mut() {
        *last ^= 1;
        fs::write(&file, &flipped)?;
        refused(&format!("changed: {name}"))?;
    }
    fs::write(&file, [&bytes[..], b"more"].concat())?;
    refused(&format!("changed: {name}"))?;
    fs::remove_file(&file)?;
    refused(&format!("missing: {name}"))?;
    fs::write(&file, &bytes)?;
    let extra = copy.join("not-of-the-release");
    fs::write(&extra, "extra")?;
    refused("extra: not-of-the-release")?;
    fs::remove_file(&extra)?;
    verify()?.requires(0, &[])?;
    File::options().append(true).open(copy.join(LIST))?.write_all(b"\n")?;
    refused("signature")
}

/// The installed release that the binary belongs to.
struct Release {
    root: PathBuf,
    version: String,
    /// The length of every listed file.
    files: BTreeMap<String, u64>,
}

impl Release {
    /// The release of the site's binary; without one the case cannot judge.
    fn of(site: &Site) -> anyhow::Result<Release> {
        let root = site.binary().ancestors().nth(2).unwrap_or(Path::new("/")).to_owned();
        let Ok(list) = fs::read_to_string(root.join(LIST)) else {
            let reason = format!("the binary lies in no installed release: {} has no {LIST}", root.display());
            return Err(Skipped(reason).into());
        };
        let version = list.strip_prefix("# ampoule release ").and_then(|rest| rest.split(' ').next());
        let version = version.with_context(|| format!("{LIST} begins with no version"))?.to_owned();
        let paths = list.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once("  "));
        let length = |path: &str| anyhow::Ok((path.to_owned(), fs::metadata(root.join(path))?.len()));
        let files = paths.map(|(_, path)| length(path).with_context(|| format!("{path} is listed and cannot be read")));
        Ok(Release { files: files.collect::<Result<_, _>>()?, root, version })
    }

    /// The smallest file with content, beside the key, which is told apart in another way.
    fn smallest(&self) -> Option<&str> {
        let files = self.files.iter().filter(|(name, length)| name.as_str() != KEY && **length > 0);
        files.min_by_key(|(_, length)| **length).map(|(name, _)| name.as_str())
    }

    /// Copies the contents alone: an installed file is often its owner's to write, and so would be its copy.
    fn copy_to(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        for name in self.files.keys().map(String::as_str).chain([LIST, SIGNATURE]) {
            let (from, to) = (self.root.join(name), folder.join(name));
            fs::create_dir_all(to.parent().unwrap_or(folder))?;
            let copied = File::open(&from).and_then(|mut from| std::io::copy(&mut from, &mut File::create(&to)?));
            copied.with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(folder.to_owned())
    }
}
