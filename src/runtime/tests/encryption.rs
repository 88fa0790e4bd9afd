//! Encrypted bundles as an operator meets them: what can be done without the key, what with it, that the key leaves the
//! process's memory when the model is loaded, and that no plaintext is ever written (THREATS C21).
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use ampoule_bundle::age::Recipient;
use support::adapters::{Workshop, matrices, seal};
use support::{Server, ampoule, code, exchange, program, run, text, workspace};

/// A site that was sold the fixture's model, encrypted to it.
struct Customer {
    workshop: Workshop,
    bundle: String,
    identity: String,
    secret: [u8; 32],
}

impl Customer {
    fn new() -> Customer {
        let workshop = Workshop::new();
        let path = |name: &str| workshop.path(name);
        let mut secret = [0; 32];
        File::open("/dev/urandom").unwrap().read_exact_at(&mut secret, 0).unwrap();
        let identity = path("identity").display().to_string();
        fs::write(&identity, format!("# {}\n{}\n", Recipient::of_secret(&secret), identity_text(&secret))).unwrap();
        fs::set_permissions(&identity, PermissionsExt::from_mode(0o600)).unwrap();

        let mut export = seal();
        export.args(["export", "--dir"]).arg(path("plain")).arg(&workshop.site.bundle);
        succeeds(export);
        let bundle = path("encrypted.bundle").display().to_string();
        let mut seal = seal();
        seal.args(["seal", "--name", "fixture-generator", "--version", "1.0.0", "--counter", "1", "--from"]);
        seal.arg(path("plain")).args(["--out", &bundle, "--encrypt-to", &Recipient::of_secret(&secret).to_string()]);
        sign_with(&mut seal, "test.key");
        succeeds(seal);
        Customer { bundle, identity, secret, workshop }
    }

    fn verify(&self, more: &[&str]) -> (i32, String) {
        let output = run(&[&["verify", &self.bundle, "--trust-root", &self.workshop.site.root], more].concat());
        (code(&output), text(&output.stdout) + &text(&output.stderr))
    }

    fn serve(&self, mut command: Command, more: &[&str]) -> Server {
        let site = &self.workshop.site;
        command.args(["serve", "--listen", "127.0.0.1:0", "--bundle", &self.bundle, "--trust-root", &site.root]);
        command.args(["--keys-file", &site.keys]).args(more);
        Server::start(command)
    }

    /// Asks for the one answer that is drawn without chance.
    fn answer(&self, server: &Server, model: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let body = format!(
            r#"{{"model":"{model}","max_tokens":8,"temperature":0,"messages":[{{"role":"user","content":"Hello"}}]}}"#
        );
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.workshop.site.key,
            body.len()
        );
        let (status, body) = exchange(&mut stream, &request);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        (status, body["choices"][0]["message"]["content"].to_string())
    }

    fn refused(&self, more: &[&str], expected: i32, words: &[&str]) {
        let site = &self.workshop.site;
        let flags = ["serve", "--listen", "127.0.0.1:0", "--bundle", &self.bundle, "--trust-root", &site.root];
        support::refused(&[&flags[..], &["--keys-file", &site.keys], more].concat(), expected, words);
    }

    /// Another identity, which opens nothing here.
    fn stranger(&self) -> String {
        let path = self.workshop.path("stranger");
        fs::write(&path, identity_text(&[7; 32])).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.display().to_string()
    }
}

/// The text of an identity, as age writes it: bech32 with the prefix in capitals.
fn identity_text(secret: &[u8; 32]) -> String {
    const ALPHABET: &[u8] = b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
    let prefix = "age-secret-key-";
    let bits: String = secret.iter().map(|byte| format!("{byte:08b}")).collect::<String>() + "0000";
    let groups: Vec<u32> = bits
        .as_bytes()
        .chunks(5)
        .map(|group| u32::from_str_radix(std::str::from_utf8(group).unwrap(), 2).unwrap())
        .collect();
    let expanded = prefix
        .bytes()
        .map(|byte| u32::from(byte >> 5))
        .chain([0])
        .chain(prefix.bytes().map(|byte| u32::from(byte & 31)));
    let sum = expanded.chain(groups.iter().copied()).chain([0; 6]).fold(1u32, |sum, value| {
        let top = sum >> 25;
        let factors = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
        let shifted = (sum & 0x01ff_ffff) << 5 ^ value;
        factors
            .into_iter()
            .enumerate()
            .fold(shifted, |sum, (bit, factor)| if top >> bit & 1 == 1 { sum ^ factor } else { sum })
    }) ^ 1;
    let checksum = (0..6).map(|index| sum >> (5 * (5 - index)) & 31);
    let text: String =
        groups.iter().copied().chain(checksum).map(|group| char::from(ALPHABET[group as usize])).collect();
    format!("AGE-SECRET-KEY-1{text}")
}

fn sign_with(command: &mut Command, key: &str) {
    let keys = workspace().join("bundles/fixtures/keys");
    command.arg("--key").arg(keys.join(key)).arg("--password-file").arg(keys.join("test.password"));
}

fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", text(&output.stderr));
}

#[test]
fn without_the_key_a_bundle_is_checked_as_far_as_it_goes_and_never_served() {
    let customer = Customer::new();
    let (code, told) = customer.verify(&[]);
    assert!(code == 0 && told.contains("NOT checked"), "{told}");
    let (code, told) = customer.verify(&["--json"]);
    assert!(code == 0 && told.contains(r#""contents_verified": false"#), "{told}");
    let (code, told) = customer.verify(&["--json", "--decryption-identity-file", &customer.identity]);
    assert!(code == 0 && told.contains(r#""contents_verified": true"#), "{told}");
    let recipient = Recipient::of_secret(&customer.secret).to_string();
    let stranger = customer.stranger();
    let (code, told) = customer.verify(&["--decryption-identity-file", &stranger]);
    assert!(code == 12 && told.contains(&recipient) && told.contains("rewrap"), "{told}");
    assert!(told.contains("no identity that was named is one of its recipients"), "{told}");
    customer.refused(&[], 12, &["encryption", &recipient, "decryption_identity_file"]);
    customer.refused(&["--decryption-identity-file", &stranger], 12, &["encryption", &recipient]);
    fs::set_permissions(&customer.identity, PermissionsExt::from_mode(0o644)).unwrap();
    customer.refused(&["--decryption-identity-file", &customer.identity], 78, &["chmod 600"]);

    // A bit of the last weight, which nobody needs a key to notice.
    let mut bytes = fs::read(&customer.bundle).unwrap();
    let position = bytes.len() - 4096;
    bytes[position] ^= 1;
    fs::write(&customer.bundle, bytes).unwrap();
    let (code, told) = customer.verify(&[]);
    assert!(code == 11 || code == 10, "{told}");
}

#[test]
fn with_the_key_it_is_served_with_its_encrypted_adapter_and_the_key_is_gone() {
    let customer = Customer::new();
    let adapter = sealed_adapter(&customer);
    let paths = format!("adapters={adapter}");
    let server = customer.serve(ampoule(), &["--decryption-identity-file", &customer.identity, "--set", &paths]);
    let plain = customer.workshop.site.serve(&[]);
    let expected = customer.answer(&plain, "fixture-generator");
    assert_eq!(expected.0, 200);
    assert_eq!(customer.answer(&server, "fixture-generator"), expected, "it is the same model");
    let adapted = customer.answer(&server, "secret-adapter");
    assert!(adapted.0 == 200 && adapted.1 != expected.1, "{adapted:?}");

    let text = identity_text(&customer.secret);
    let needles: [&[u8]; 2] = [&customer.secret, &text.as_bytes()[16..60]];
    assert_eq!(occurrences(server.process_id(), &needles), [0, 0], "the identity is still in memory");
    // What proves that the search finds what is there: the API key's hash is kept for as long as the server runs.
    let kept = fs::read_to_string(&customer.workshop.site.keys).unwrap();
    let kept: serde_json::Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
    let name = kept["name"].as_str().unwrap();
    assert!(occurrences(server.process_id(), &[name.as_bytes()])[0] > 0, "the search finds nothing at all");
}

#[test]
fn the_credential_of_systemd_opens_it_too() {
    let customer = Customer::new();
    let folder = customer.workshop.path("credentials");
    fs::create_dir(&folder).unwrap();
    fs::copy(&customer.identity, folder.join("decryption-identity")).unwrap();
    let mut command = ampoule();
    command.env("CREDENTIALS_DIRECTORY", &folder);
    let server = customer.serve(command, &[]);
    assert_eq!(customer.answer(&server, "fixture-generator").0, 200);
}

#[test]
fn a_store_takes_it_without_the_key_and_activates_it_with_the_key() {
    let customer = Customer::new();
    let store = customer.workshop.path("store").display().to_string();
    let root = &customer.workshop.site.root;
    let done = run(&["import", &customer.bundle, "--store", &store, "--trust-root", root]);
    assert_eq!(code(&done), 0, "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("NOT checked"), "{}", text(&done.stdout));
    support::refused(&["activate", "fixture-generator", "--store", &store], 12, &["encryption"]);
    let activate =
        ["activate", "fixture-generator", "--store", &store, "--decryption-identity-file", &customer.identity];
    let done = run(&activate);
    assert_eq!(code(&done), 0, "{}", text(&done.stderr));
}

#[test]
fn no_plaintext_is_ever_written_while_it_is_loaded_and_served() {
    let Some(strace) = on_path("strace") else {
        assert!(std::env::var_os("CI").is_none(), "strace is missing");
        eprintln!("skipped: no_plaintext_is_ever_written_while_it_is_loaded_and_served: strace is missing");
        return;
    };
    let customer = Customer::new();
    let trace = customer.workshop.path("trace");
    let mut command = program(strace);
    command.args(["-D", "-f", "-qq", "-e", "trace=open,openat,openat2,creat,memfd_create", "-o"]).arg(&trace);
    command.arg(env!("CARGO_BIN_EXE_ampoule"));
    let server = customer.serve(command, &["--decryption-identity-file", &customer.identity]);
    assert_eq!(customer.answer(&server, "fixture-generator").0, 200);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("encrypted.bundle"), "the trace holds what was opened");
    let written =
        |line: &&str| ["O_WRONLY", "O_RDWR", "O_CREAT", "creat(", "memfd"].iter().any(|flag| line.contains(flag));
    let written: Vec<&str> = trace.lines().filter(written).filter(|line| !line.contains("/dev/null")).collect();
    assert_eq!(written, Vec::<&str>::new());
}

/// An adapter of the encrypted base, encrypted to the same customer.
fn sealed_adapter(customer: &Customer) -> String {
    let path = |name: &str| customer.workshop.path(name);
    customer.workshop.seal("plain-adapter", "unused", &customer.bundle, &matrices(3));
    let bundle = path("adapter.bundle").display().to_string();
    let mut seal = seal();
    seal.args(["seal", "--name", "secret-adapter", "--version", "1.0.0", "--counter", "1", "--from"]);
    seal.arg(path("plain-adapter-peft")).args(["--adapter-of", &customer.bundle, "--out", &bundle]);
    seal.args(["--encrypt-to", &Recipient::of_secret(&customer.secret).to_string()]);
    sign_with(&mut seal, "other.key");
    succeeds(seal);
    bundle
}

/// How often each needle occurs in what a process may read and write of its memory.
fn occurrences<const N: usize>(process: u32, needles: &[&[u8]; N]) -> [usize; N] {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut counts = [0; N];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let address = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(address(end) - address(start)).unwrap()];
        // Some regions cannot be read by anybody.
        if memory.read_exact_at(&mut bytes, address(start)).is_err() {
            continue;
        }
        for (count, needle) in counts.iter_mut().zip(needles) {
            *count += bytes.windows(needle.len()).filter(|window| window == needle).count();
        }
    }
    counts
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder: PathBuf| folder.join(program)).find(|file: &PathBuf| Path::is_file(file))
}
