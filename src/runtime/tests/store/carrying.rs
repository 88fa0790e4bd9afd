//! What leaves a store and comes back is the same bundle, byte for byte, whatever carried it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::shelf::Shelf;
use crate::support::adapters::{seal, succeeds};
use crate::support::{PATIENCE, code, run, text, workspace};

impl Shelf {
    fn export(&self, form: &str, to: &str) {
        self.done(&["export", "fixture-generator@1.0.0", form, to]);
    }

    /// The file that the store exports of a version.
    fn exported(&self, version: &str) -> Vec<u8> {
        let path = self.path(&format!("out-{version}.bundle"));
        self.done(&["export", &format!("fixture-generator@{version}"), "--out", &path]);
        fs::read(path).unwrap()
    }
}

fn delivered(name: &str) -> Vec<u8> {
    fs::read(Shelf::fixture(name)).unwrap()
}

#[test]
fn the_exported_file_is_the_one_that_was_delivered() {
    let shelf = Shelf::with_two_versions();
    assert!(shelf.exported("1.0.0") == delivered("generator.bundle"));
    assert!(shelf.exported("1.1.0") == delivered("generator-next.bundle"));
    let path = shelf.path("out-1.0.0.bundle");
    shelf.refused(&["export", "fixture-generator@1.0.0", "--out", &path], 1, &["is there already"]);
    shelf.refused(&["export", "fixture-generator@1.0.0"], 2, &["--out", "--oci", "--dir"]);
    Shelf::tamper(&shelf.weights(), |bytes| *bytes.last_mut().unwrap() ^= 1);
    let out = shelf.path("damaged.bundle");
    shelf.refused(&["export", "fixture-generator", "--out", &out], 11, &["has digest"]);
    assert!(!Path::new(&out).exists() && !Path::new(&format!("{out}.partial")).exists(), "half a file is none");
}

#[test]
fn a_layout_is_imported_without_what_stood_in_its_index() {
    let shelf = Shelf::with_two_versions();
    let layout = shelf.path("layout");
    shelf.export("--oci", &layout);
    let index = Path::new(&layout).join("index.json");
    let mut rewritten: Json = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    for descriptor in rewritten["manifests"].as_array_mut().unwrap() {
        descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "one" });
        descriptor.as_object_mut().unwrap().remove("artifactType");
    }
    fs::write(&index, format!("{rewritten:#}")).unwrap();
    for delivery in [format!("oci:{layout}"), format!("oci:{layout}:one")] {
        let other = Shelf::new();
        other.import_from(&delivery);
        assert!(other.exported("1.0.0") == delivered("generator.bundle"));
    }
    let import =
        |delivery: &str| ["import".to_owned(), delivery.to_owned(), "--trust-root".to_owned(), shelf.site.root.clone()];
    let refused = |delivery: &str, exit: i32, words: &[&str]| {
        let arguments = import(delivery);
        shelf.refused(&arguments.each_ref().map(String::as_str), exit, words);
    };
    refused(&format!("oci:{layout}:two"), 10, &["no sealed model under the tag two", "its tags are one"]);
    refused("oci:/nonexistent", 10, &["/nonexistent"]);
    refused(&format!("oci:{}", shelf.store), 10, &["index.json"]);
    // THREATS C10: without its attestations it is nobody's.
    let model: Vec<Json> = rewritten["manifests"].as_array().unwrap()[..1].to_vec();
    fs::write(&index, serde_json::json!({ "manifests": model }).to_string()).unwrap();
    refused(&format!("oci:{layout}"), 11, &["no release statement"]);
}

/// THREATS C01: a layout that came from elsewhere leads nowhere else.
#[test]
fn c01_links_of_a_layout_are_not_followed_and_its_digests_are_no_paths() {
    let shelf = Shelf::with_two_versions();
    let layout = shelf.path("layout");
    shelf.export("--oci", &layout);
    let refused = |words: &[&str]| {
        let delivery = format!("oci:{layout}");
        shelf.refused(&["import", &delivery, "--trust-root", &shelf.site.root], 10, words);
    };
    let index = Path::new(&layout).join("index.json");
    let kept = fs::read_to_string(&index).unwrap();
    fs::write(&index, kept.replacen("sha256:", "sha256:../../../etc/", 1)).unwrap();
    refused(&["64 lower-case hex digits"]);
    fs::rename(&index, shelf.path("index.json")).unwrap();
    symlink(shelf.path("index.json"), &index).unwrap();
    refused(&["a symbolic link"]);
    fs::remove_file(&index).unwrap();
    fs::write(&index, kept).unwrap();
    let manifest = shelf.manifest("1.0.0");
    let in_layout = Path::new(&layout).join("blobs/sha256").join(manifest.file_name().unwrap());
    fs::remove_file(&in_layout).unwrap();
    symlink(&manifest, &in_layout).unwrap();
    refused(&["a symbolic link"]);
}

#[test]
fn the_exported_folder_holds_the_model_and_its_signature() {
    let shelf = Shelf::with_two_versions();
    let folder = shelf.path("plain");
    shelf.export("--dir", &folder);
    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let model = workspace().join("src/inference/tests/fixtures/engine/llama");
    for name in names.iter().filter(|name| *name != "model.sig" && model.join(name).exists()) {
        let (found, expected) = (fs::read(Path::new(&folder).join(name)), fs::read(model.join(name)));
        // The weights are laid out anew when they are sealed.
        assert!(name.ends_with(".safetensors") || found.unwrap() == expected.unwrap(), "{name}");
    }
    assert!(names.contains(&"model.sig".to_owned()) && names.len() > 5, "{names:?}");
    // Both tools write one folder.
    let by_the_vendor = shelf.path("vendor");
    let mut command = seal();
    command
        .args(["export", "--dir", &by_the_vendor, "--trust-root", &shelf.site.root])
        .arg(Shelf::fixture("generator.bundle"));
    succeeds(command);
    for name in names {
        let read = |folder: &str| fs::read(Path::new(folder).join(&name)).unwrap();
        assert!(read(&folder) == read(&by_the_vendor), "{name}");
    }
}

#[test]
fn a_thin_bundle_becomes_the_whole_one_where_the_old_one_is() {
    let shelf = Shelf::new();
    let thin = shelf.path("thin.bundle");
    let mut command = seal();
    command.args(["diff", "--out", &thin]).args(["generator.bundle", "generator-next.bundle"].map(Shelf::fixture));
    succeeds(command);
    assert!(fs::metadata(&thin).unwrap().len() < delivered("generator-next.bundle").len() as u64 / 5);
    let import = ["import", &thin, "--trust-root", &shelf.site.root];
    // Where there is no store at all, its base is what is missing, and not the store.
    Shelf::new().refused(
        &import,
        13,
        &["made to complete fixture-generator 1.0.0 (sha256:", "import that bundle first"],
    );
    shelf.import("encoder.bundle");
    let words = [
        "a thin bundle, made to complete fixture-generator 1.0.0 (sha256:",
        "model.safetensors sha256:",
        "import that bundle",
    ];
    shelf.refused(&import, 13, &words);
    let inspect = run(&["inspect", &thin]);
    assert_eq!(code(&inspect), 10);
    assert!(text(&inspect.stderr).contains("this is a thin bundle"));

    shelf.import("generator.bundle");
    shelf.import_from(&thin);
    assert!(shelf.exported("1.1.0") == delivered("generator-next.bundle"), "byte for byte the new one");
    shelf.done(&["activate", "fixture-generator"]);
    assert_eq!(shelf.served_version(), "1.1.0");
    // A base that was damaged meanwhile completes nothing.
    Shelf::tamper(&shelf.weights(), |bytes| *bytes.last_mut().unwrap() ^= 1);
    shelf.refused(&import, 11, &["has digest"]);
}

#[test]
fn what_is_in_the_store_is_inspected_by_name() {
    let shelf = Shelf::with_two_versions();
    assert!(shelf.done(&["inspect", "fixture-generator@1.0.0"]).contains("NOT verified"));
    shelf.refused(&["inspect", "fixture-generator@3.0.0"], 13, &["is not in the store"]);
    shelf.refused(&["inspect", "a file.bundle"], 2, &["NAME or NAME@VERSION"]);
}

/// A registry of our own on loopback, until it is dropped.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(folder: &Path) -> Registry {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (configuration, data) = (folder.join("registry.yml"), folder.join("registry"));
        let text = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            data.display()
        );
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new("docker-registry");
        let child =
            command.arg("serve").arg(configuration).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Registry { child, address };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "no registry on {}", registry.address);
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_registry_and_skopeo_carry_a_bundle_with_its_attestations() {
    let test = "a_registry_and_skopeo_carry_a_bundle_with_its_attestations";
    for program in ["docker-registry", "skopeo"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
            assert!(std::env::var_os("CI").is_none(), "{test}: {program} is missing");
            eprintln!("skipped: {test}: {program} is missing");
            return;
        }
    }
    let shelf = Shelf::with_two_versions();
    let registry = Registry::start(shelf.site.folder.path());
    let layout = shelf.path("layout");
    shelf.export("--oci", &layout);
    let back = format!("oci:{}:1.0.0", shelf.path("back"));
    let remote = format!("docker://{}/fixture-generator:1.0.0", registry.address);
    let carry = |tls: &str, from: &str, to: &str| {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--all", tls, from, to]);
        succeeds(skopeo);
    };
    carry("--dest-tls-verify=false", &format!("oci:{layout}:bundle"), &remote);
    carry("--src-tls-verify=false", &remote, &back);
    let other = Shelf::new();
    other.import_from(&back);
    assert!(other.exported("1.0.0") == delivered("generator.bundle"), "the same file, byte for byte");
}
