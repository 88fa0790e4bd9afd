//! A site with a store: what the tests of the store do to it and ask of it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use crate::support::adapters::{seal, succeeds};
use crate::support::{Server, Site, ampoule, chat, code, exchange, get, run, text, workspace};

/// A site with a store beside its keys.
pub(crate) struct Shelf {
    pub(crate) site: Site,
    pub(crate) store: String,
}

impl Shelf {
    pub(crate) fn new() -> Shelf {
        let site = Site::new();
        let store = site.folder.path().join("store").display().to_string();
        Shelf { site, store }
    }

    /// A store with both versions of the generator, the first one active.
    pub(crate) fn with_two_versions() -> Shelf {
        let shelf = Shelf::new();
        shelf.import("generator.bundle");
        shelf.import("generator-next.bundle");
        shelf.done(&["activate", "fixture-generator@1.0.0"]);
        shelf
    }

    pub(crate) fn fixture(name: &str) -> String {
        workspace().join("bundles/fixtures/serve").join(name).display().to_string()
    }

    /// A path in the site's folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.site.folder.path().join(name).display().to_string()
    }

    /// Seals the generator's files, changed, as another version of it, and returns the bundle's path.
    pub(crate) fn seal(&self, version: &str, counter: u32, change: impl FnOnce(&Path)) -> String {
        let folder = self.site.folder.path().join(format!("model-{version}"));
        fs::create_dir(&folder).unwrap();
        let files = workspace().join("src/inference/tests/fixtures/engine/llama");
        for entry in fs::read_dir(files).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        change(&folder);
        let (keys, out) = (workspace().join("bundles/fixtures/keys"), self.path(&format!("{version}.bundle")));
        let mut command = seal();
        command.arg("seal").arg("--from").arg(folder).args(["--name", "fixture-generator", "--version", version]);
        command.args(["--counter", &counter.to_string(), "--out", &out, "--key"]).arg(keys.join("test.key"));
        command.arg("--password-file").arg(keys.join("test.password"));
        succeeds(command);
        out
    }

    /// Seals a version that is authentic and may run here, and of which no model can be made.
    pub(crate) fn seal_a_broken_one(&self) -> String {
        self.seal("2.0.0", 3, |folder| {
            let path = folder.join("config.json");
            let config = fs::read_to_string(&path).unwrap();
            let wider = config.replacen("\"hidden_size\": 32", "\"hidden_size\": 64", 1);
            assert_ne!(config, wider);
            fs::write(path, wider).unwrap();
        })
    }

    pub(crate) fn import(&self, name: &str) {
        self.import_from(&Shelf::fixture(name));
    }

    pub(crate) fn import_from(&self, delivered: &str) {
        self.done(&["import", delivered, "--trust-root", &self.site.root]);
    }

    /// Runs a command on this store to its end and returns its exit code and what it told.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = run(&[arguments, &["--store", &self.store]].concat());
        (code(&output), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }

    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let (code, told) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}\n{told}");
        told
    }

    pub(crate) fn refused(&self, arguments: &[&str], expected: i32, words: &[&str]) {
        let (code, told) = self.run(arguments);
        assert_eq!(code, expected, "{arguments:?}\n{told}");
        for word in words {
            assert!(told.contains(word), "missing: {word}\nin: {told}");
        }
    }

    pub(crate) fn list(&self) -> Vec<Json> {
        let listed: Json = serde_json::from_str(&self.done(&["list", "--json"])).unwrap();
        listed["bundles"].as_array().unwrap().clone()
    }

    /// Each bundle as `version standing`, in the order of their import.
    pub(crate) fn standings(&self) -> Vec<String> {
        let word = |bundle: &Json, key: &str| bundle[key].as_str().unwrap().to_owned();
        self.list().iter().map(|bundle| format!("{} {}", word(bundle, "version"), word(bundle, "standing"))).collect()
    }

    /// Every blob of the store with its length, sorted by name.
    pub(crate) fn blobs(&self) -> Vec<(PathBuf, u64)> {
        let blobs = fs::read_dir(PathBuf::from(&self.store).join("blobs/sha256")).unwrap().map(Result::unwrap);
        let mut blobs: Vec<_> = blobs.map(|entry| (entry.path(), entry.metadata().unwrap().size())).collect();
        blobs.sort();
        blobs
    }

    /// The blob of the weights, which both versions share.
    pub(crate) fn weights(&self) -> PathBuf {
        self.blobs().into_iter().max_by_key(|(_, size)| *size).unwrap().0
    }

    /// The manifest of an imported version.
    pub(crate) fn manifest(&self, version: &str) -> PathBuf {
        let listed = self.list();
        let bundle = listed.iter().find(|bundle| bundle["version"] == version).unwrap();
        let digest = bundle["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        PathBuf::from(&self.store).join("blobs/sha256").join(digest)
    }

    /// Replaces a file, as somebody with the rights of its owner could.
    pub(crate) fn tamper(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn catalogue(&self) -> PathBuf {
        PathBuf::from(&self.store).join("catalogue.json")
    }

    pub(crate) fn serve_arguments(&self) -> Vec<&str> {
        vec!["serve", "--trust-root", &self.site.root, "--keys-file", &self.site.keys, "--listen", "127.0.0.1:0"]
    }

    pub(crate) fn serve(&self) -> Server {
        let mut command = ampoule();
        self.arguments_to(&mut command);
        Server::start(command)
    }

    pub(crate) fn arguments_to(&self, command: &mut Command) {
        command.args(self.serve_arguments()).args(["--store", &self.store]);
    }

    /// What a server of this store says about its bundle, once it has answered a question.
    pub(crate) fn metadata_of(&self, server: &Server) -> Json {
        let ask = |request: &str| exchange(&mut TcpStream::connect(server.address).unwrap(), request);
        let (status, body) = ask(&chat("fixture-generator", &self.site.key, 4));
        assert_eq!(status, 200, "{body}");
        let metadata: Json = serde_json::from_str(&ask(&get("/v1/metadata", Some(&self.site.key))).1).unwrap();
        metadata["bundle"].clone()
    }

    /// The version that a server of this store serves.
    pub(crate) fn served_version(&self) -> String {
        let metadata = self.metadata_of(&self.serve());
        metadata["version"].as_str().unwrap_or_else(|| panic!("{metadata}")).to_owned()
    }
}
