//! What this host trusts, from outside: shown, taken one root further, and taken away again.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::Value;
use support::adapters::seal;
use support::{Server, Site, ampoule, code, exchange, get, golden, refused, run, text, workspace};

/// A site that has pinned a vendor's first root, and the vendor's key: `test.key` has every role.
struct Vendor {
    site: Site,
    root: String,
}

impl Vendor {
    fn new() -> Vendor {
        let site = Site::new();
        let root = site.folder.path().join("root.json").display().to_string();
        let vendor = Vendor { site, root };
        let key = keys("test.pub");
        let roles = ["--root-key", &key, "--release-key", &key, "--revoke-key", &key];
        vendor.makes(&[&["trust", "init"], &roles[..], &["--out", &vendor.root]].concat());
        vendor
    }

    fn path(&self, name: &str) -> String {
        self.site.folder.path().join(name).display().to_string()
    }

    fn makes(&self, arguments: &[&str]) {
        let output = seal().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }

    /// The same, signed with the vendor's key, to a file of this name.
    fn signs(&self, arguments: &[&str], out: &str) -> String {
        let (key, password, out) = (keys("test.key"), keys("test.password"), self.path(out));
        let signed = ["--sign-with", &key, "--password-file", &password, "--out", &out];
        self.makes(&[&["trust"], arguments, &signed].concat());
        out
    }

    /// The root that follows `before`: the same with another expiry.
    fn next(&self, before: &str, year: u32) -> String {
        let expires = format!("{year}-01-01T00:00:00Z");
        self.signs(&["rotate", before, "--expires", &expires], &format!("{year}.json"))
    }

    fn verify(&self, more: &[&str]) -> (i32, String) {
        let output = run(&[&["verify", &self.site.bundle, "--trust-root", &self.root], more].concat());
        (code(&output), text(&output.stderr) + &text(&output.stdout))
    }
}

fn keys(name: &str) -> String {
    workspace().join("bundles/fixtures/keys").join(name).display().to_string()
}

#[test]
fn the_help_texts_are_pinned() {
    for (file, arguments) in [
        ("help-trust-show.txt", &["trust", "show", "--help"][..]),
        ("help-trust-update.txt", &["trust", "update", "--help"]),
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 0);
        golden(file, &text(&output.stdout));
    }
}

#[test]
fn a_root_is_shown_with_its_digest_its_keys_and_what_they_sign() {
    let vendor = Vendor::new();
    let output = run(&["trust", "show", &vendor.root, "--json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verified = run(&["verify", &vendor.site.bundle, "--trust-root", &vendor.root, "--json"]);
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(shown["digest"], verified["bundle"]["trust_root"]);
    assert_eq!((&shown["version"], &shown["revocations"]), (&1.into(), &Value::Null));
    assert_eq!(shown["roles"][1]["role"], "release");
    assert_eq!(shown["roles"][1]["keys"][0]["id"], verified["bundle"]["signers"][0]);
    let told = text(&run(&["trust", "show", &vendor.root]).stdout);
    for words in ["version 1, expires", "epochs      0 to 1", "1 of 1 must sign any bundle", "ecdsa-sha2-nistp256"] {
        assert!(told.contains(words), "missing: {words}\nin: {told}");
    }
    refused(&["trust", "show", &vendor.site.bundle], 10, &["trust root"]);
}

#[test]
fn c16_an_update_walks_the_chain_and_goes_back_for_nobody() {
    let vendor = Vendor::new();
    let (second, third) = (vendor.next(&vendor.root, 2040), vendor.path("2041.json"));
    vendor.next(&second, 2041);
    let first = fs::read(&vendor.root).unwrap();
    fs::set_permissions(&vendor.root, fs::Permissions::from_mode(0o640)).unwrap();
    let update = |from: &[&str]| {
        let mut command = ["trust", "update", "--trust-root", &vendor.root, "--from"].map(str::to_owned).to_vec();
        command.extend(from.iter().map(|path| (*path).to_owned()));
        command
    };
    let refused = |arguments: &[String], code: i32, words: &[&str]| {
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };

    // A gap, a root that nobody signed, one that another vendor signed, and a file that is none.
    let unsigned = vendor.path("unsigned.json");
    vendor.makes(&["trust", "rotate", &vendor.root, "--expires", "2042-01-01T00:00:00Z", "--out", &unsigned]);
    refused(&update(&[&third]), 11, &["2041.json", "version 3, the one that follows has 2"]);
    refused(&update(&[&unsigned]), 11, &["signed by 0 of the `root` keys of the root before it"]);
    refused(&update(&[&second, &unsigned]), 11, &["has version 2, the one that follows has 3"]);
    refused(&update(&[&keys("test.pub")]), 10, &["test.pub"]);
    refused(&update(&["/nonexistent.json"]), 10, &["/nonexistent.json"]);
    assert_eq!(fs::read(&vendor.root).unwrap(), first, "whatever is refused changes nothing");

    // A link stays one: the file that it leads to is replaced.
    let link = vendor.path("link.json");
    symlink(&vendor.root, &link).unwrap();
    let output = run(&["trust", "update", "--trust-root", &link, "--from", &second, &third, "--json"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["from"], &told["root"]["version"], &told["expired"]), (&1.into(), &3.into(), &false.into()));
    assert_eq!(fs::read(&vendor.root).unwrap(), fs::read(&third).unwrap());
    assert_eq!(fs::metadata(&vendor.root).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(PathBuf::from(&link).is_symlink());
    let left = fs::read_dir(vendor.site.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.filter(|name| name.to_string_lossy().contains("staged")).count() == 0);
    assert_eq!(vendor.verify(&[]).0, 0);

    refused(&update(&[&second]), 11, &["an older one is never taken"]);
    refused(&update(&[&third]), 11, &["an older one is never taken"]);
}

#[test]
fn what_was_revoked_is_verified_no_more() {
    let vendor = Vendor::new();
    let bundle = vendor.site.bundle.clone();
    let manifest = vendor.signs(&["revoke", "--bundle", &bundle], "manifest.json");
    let counter = vendor.signs(&["revoke", "--minimum-counter", "fixture-generator=1:9"], "counter.json");
    let runtime = vendor.signs(&["revoke", "--minimum-runtime", "99.0.0"], "runtime.json");
    let harmless = vendor.signs(&["revoke", "--minimum-counter", "another=1:9"], "harmless.json");
    for (list, expected, words) in [
        (&manifest, 11, "was revoked by the revocation list of version 1"),
        (&counter, 12, "at least counter 9 in epoch 1 (the revocation list)"),
        (&runtime, 12, "at least 99.0.0"),
        (&harmless, 0, "as list version 1 says"),
    ] {
        let (exit, told) = vendor.verify(&["--revocations", list]);
        assert_eq!(exit, expected, "{told}");
        assert!(told.contains(words), "missing: {words}\nin: {told}");
    }
    let (exit, told) = vendor.verify(&[]);
    assert!(exit == 0 && told.contains("no revocation list"), "{told}");
    let (exit, told) = vendor.verify(&["--revocations", &vendor.root]);
    assert!(exit == 10 && told.contains("revocation list"), "{told}");
    let (exit, told) = vendor.verify(&["--revocations", "/nonexistent.json"]);
    assert!(exit == 10 && told.contains("cannot open the revocation list /nonexistent.json"), "{told}");
    fs::set_permissions(&harmless, fs::Permissions::from_mode(0o646)).unwrap();
    let (exit, told) = vendor.verify(&["--revocations", &harmless]);
    assert!(exit == 78 && told.contains("chmod o-w"), "{told}");
}

#[test]
fn c17_a_revoked_key_opens_no_bundle_and_no_store() {
    let vendor = Vendor::new();
    let id = text(&seal().args(["trust", "show", &vendor.root, "--json"]).output().unwrap().stdout);
    let id: Value = serde_json::from_str(&id).unwrap();
    let id = id["root"]["roles"][1]["keys"][0]["id"].as_str().unwrap().to_owned();
    let list = vendor.signs(&["revoke", "--key-id", &id], "keys.json");
    let (exit, told) = vendor.verify(&["--revocations", &list]);
    assert!(exit == 11 && told.contains(&format!("{id} (revoked)")), "{told}");

    let (store, root) = (vendor.path("store"), vendor.root.as_str());
    let import = ["import", &vendor.site.bundle, "--store", &store, "--trust-root", root];
    refused(&[&import[..], &["--revocations", &list]].concat(), 11, &["(revoked)"]);
    assert_eq!(code(&run(&import)), 0);
    let activate = ["activate", "fixture-generator", "--store", &store, "--revocations", &list];
    refused(&activate, 11, &["(revoked)"]);
    assert!(!text(&run(&activate).stderr).contains("its file has changed"), "no file has");
    assert_eq!(code(&run(&["activate", "fixture-generator", "--store", &store])), 0);
    let serve = ["serve", "--store", &store, "--trust-root", root, "--keys-file", &vendor.site.keys];
    let listen = ["--listen", "127.0.0.1:0", "--revocations", &list];
    refused(&[&serve[..], &listen].concat(), 11, &["(revoked)"]);
}

#[test]
fn c16_a_downgrade_token_permits_one_older_bundle() {
    let vendor = Vendor::new();
    let older = ["--accepted", "1:99"];
    assert_eq!(vendor.verify(&older).0, 13);
    let permit = ["downgrade", &vendor.site.bundle, "--expires", "2100-01-01T00:00:00Z"];
    let token = vendor.signs(&permit, "token.json");
    let (exit, told) = vendor.verify(&[&older[..], &["--downgrade-token", &token]].concat());
    assert_eq!(exit, 0, "{told}");
    let demo = workspace().join("bundles/demo/demo.bundle").display().to_string();
    let other = vendor.signs(&["downgrade", &demo, "--expires", "2100-01-01T00:00:00Z"], "other.json");
    let (exit, told) = vendor.verify(&[&older[..], &["--downgrade-token", &other]].concat());
    assert!(exit == 13 && told.contains("the downgrade token is for another bundle"), "{told}");
    let (exit, told) = vendor.verify(&["--downgrade-token", &vendor.root]);
    assert!(exit == 10 && told.contains("downgrade token"), "{told}");
}

#[test]
fn the_root_and_the_list_that_count_are_logged_and_told() {
    let vendor = Vendor::new();
    let list = vendor.signs(&["revoke", "--minimum-counter", "another=1:9"], "list.json");
    let mut command = ampoule();
    command.args(["serve", "--bundle", &vendor.site.bundle, "--trust-root", &vendor.root]);
    command.args(["--keys-file", &vendor.site.keys, "--listen", "127.0.0.1:0"]).env("AMPOULE_REVOCATIONS", &list);
    let server = Server::start(command);
    let logged = server.told.iter().find(|line| line.contains("the signatures of the bundle hold")).unwrap();
    let logged: Value = serde_json::from_str(logged).unwrap();
    let request = get("/v1/metadata", Some(&vendor.site.key));
    let (_, body) = exchange(&mut TcpStream::connect(server.address).unwrap(), &request);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(logged["trust_root"], body["bundle"]["trust_root"]);
    for told in [&logged, &body["bundle"]] {
        assert_eq!((&told["trust_root_version"], &told["revocation_list_version"]), (&1.into(), &1.into()), "{told}");
    }
}
