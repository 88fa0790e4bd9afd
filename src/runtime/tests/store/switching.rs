//! A bundle is loaded and proven before it is switched to, and a server whose new bundle does not become ready goes back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::shelf::Shelf;
use crate::support::{Server, ampoule, code, program, text};

impl Shelf {
    /// With the second version active and never started.
    fn just_activated() -> Shelf {
        let shelf = Shelf::with_two_versions();
        shelf.done(&["activate", "fixture-generator@1.1.0"]);
        shelf
    }

    fn trial(&self) -> Option<String> {
        let catalogue: serde_json::Value = serde_json::from_slice(&fs::read(self.catalogue()).unwrap()).unwrap();
        catalogue["trial"].as_str().map(str::to_owned)
    }

    /// As if a server had begun to load the new bundle and died.
    fn die_on_trial(&self) {
        let catalogue = fs::read_to_string(self.catalogue()).unwrap();
        let started = catalogue.replace("\"trial\":\"pending\"", "\"trial\":\"started\"");
        assert_ne!(catalogue, started);
        fs::write(self.catalogue(), started).unwrap();
    }
}

#[test]
fn a_bundle_that_does_not_pass_its_self_test_is_not_switched_to() {
    let shelf = Shelf::with_two_versions();
    shelf.import_from(&shelf.seal_a_broken_one());
    shelf.refused(&["self-test", "fixture-generator@2.0.0"], 20, &["cannot be served"]);
    let words = ["fixture-generator 2.0.0 does not pass its self-test", "nothing was switched", "cannot be served"];
    shelf.refused(&["activate", "fixture-generator@2.0.0"], 20, &words);
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged", "2.0.0 staged"]);
    assert!(shelf.done(&["self-test", "fixture-generator@1.1.0"]).contains("Passed: fixture-generator 1.1.0"));
}

#[test]
fn the_self_test_runs_under_the_configuration_that_is_named() {
    let shelf = Shelf::with_two_versions();
    let file = shelf.path("site.toml");
    let activate = ["activate", "fixture-generator@1.1.0", "--config", &file];
    fs::write(&file, "[limits]\ncontext_tokens = 1\n").unwrap();
    shelf.refused(
        &activate,
        78,
        &["`limits.context_tokens` is 1", "does not pass its self-test", "nothing was switched"],
    );
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged"]);
    fs::write(&file, "[limits]\ncontext_tokens = 64\n").unwrap();
    shelf.done(&activate);
}

#[test]
fn the_first_start_that_becomes_ready_confirms_the_switch() {
    let shelf = Shelf::just_activated();
    assert_eq!(shelf.trial().as_deref(), Some("pending"));
    let server = shelf.serve();
    assert_eq!(shelf.trial(), None);
    assert!(shelf.metadata_of(&server)["reverted_from"].is_null());
    drop(server);
    assert_eq!(shelf.served_version(), "1.1.0", "a server that is killed afterwards changes nothing");
    // The first bundle of a store has nothing to go back to.
    let first = Shelf::new();
    first.import("generator.bundle");
    first.done(&["activate", "fixture-generator"]);
    assert_eq!(first.trial(), None);
}

#[test]
fn a_new_bundle_that_is_refused_is_given_up_at_once() {
    let shelf = Shelf::just_activated();
    Shelf::tamper(&shelf.manifest("1.1.0"), |bytes| bytes[20] ^= 1);
    let server = shelf.serve();
    let metadata = shelf.metadata_of(&server);
    assert_eq!(
        (&metadata["version"], &metadata["reverted_from"]),
        (&"1.0.0".into(), &"fixture-generator 1.1.0".into())
    );
    assert!(
        server.told.iter().any(|line| line.contains("REVERTED") && line.contains("has digest")),
        "{:#?}",
        server.told
    );
    drop(server);
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 failed"]);
    // It stays given up, and told, until something is activated.
    assert_eq!(shelf.metadata_of(&shelf.serve())["reverted_from"], "fixture-generator 1.1.0");
    shelf.import("generator-next.bundle");
    shelf.done(&["activate", "fixture-generator"]);
    assert_eq!(shelf.served_version(), "1.1.0");
    assert_eq!(shelf.standings(), ["1.0.0 previous", "1.1.0 active"]);
}

#[test]
fn a_new_bundle_that_a_server_died_of_is_given_up_at_the_next_start() {
    let shelf = Shelf::just_activated();
    shelf.die_on_trial();
    let server = shelf.serve();
    assert_eq!(shelf.metadata_of(&server)["version"], "1.0.0");
    assert!(server.told.iter().any(|line| line.contains("REVERTED") && line.contains("before it was ready")));
    drop(server);
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 failed"]);
}

#[test]
fn what_is_no_fault_of_the_new_bundle_gives_it_up_for_nothing() {
    let shelf = Shelf::just_activated();
    // A key file without keys would keep any bundle from being served.
    let nobody = shelf.path("nobody.jsonl");
    fs::write(&nobody, "").unwrap();
    let arguments = ["serve", "--trust-root", &shelf.site.root, "--keys-file", &nobody, "--listen", "127.0.0.1:0"];
    shelf.refused(&arguments, 78, &["holds no key"]);
    assert_eq!(shelf.trial().as_deref(), Some("pending"));
    // Somebody who changes the store now is asked to wait, and so is the server.
    let lock = fs::File::open(Path::new(&shelf.store).join("lock")).unwrap();
    lock.lock().unwrap();
    shelf.refused(&shelf.serve_arguments(), 1, &["another ampoule is changing the store"]);
    lock.unlock().unwrap();
    assert_eq!(shelf.served_version(), "1.1.0");
    assert_eq!(shelf.trial(), None);
}

/// The command that runs as a user who may only read what is ours; as root that is another user.
fn as_a_reader(shelf: &Shelf) -> Command {
    let store = Path::new(&shelf.store);
    for path in [shelf.site.folder.path(), store] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
    }
    for path in [store.join("lock"), shelf.catalogue(), shelf.site.keys.clone().into()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    }
    let is_root = fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t"));
    if !is_root {
        return ampoule();
    }
    let mut command = program("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(ampoule().get_program());
    command
}

#[test]
fn a_server_that_may_not_write_to_the_store_serves_what_is_ready_and_refuses_what_is_not() {
    let shelf = Shelf::just_activated();
    let serve = || {
        let mut command = as_a_reader(&shelf);
        shelf.arguments_to(&mut command);
        command
    };
    let server = Server::start(serve());
    assert_eq!(shelf.metadata_of(&server)["version"], "1.1.0");
    assert!(server.told.iter().any(|line| line.contains("it cannot go back by itself")), "{:#?}", server.told);
    drop(server);
    assert_eq!(shelf.trial().as_deref(), Some("pending"), "it could not be recorded");
    fs::set_permissions(shelf.site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&shelf.store, fs::Permissions::from_mode(0o755)).unwrap();
    Shelf::tamper(&shelf.manifest("1.1.0"), |bytes| bytes[20] ^= 1);
    let refused = serve().output().unwrap();
    let told = text(&refused.stderr);
    assert_eq!(code(&refused), 11, "{told}");
    assert!(told.contains("fixture-generator 1.1.0 was activated") && told.contains("ampoule rollback"), "{told}");
    fs::set_permissions(shelf.site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&shelf.store, fs::Permissions::from_mode(0o755)).unwrap();
    shelf.done(&["rollback"]);
}
