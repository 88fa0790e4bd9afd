//! Holds the image against other people's tools: skopeo reads and copies it, umoci unpacks it, and runc starts it the
//! way a strict cluster would: as a user that nobody foresaw, on a root that cannot be written, without a capability,
//! configured by what is mounted and set.  Then it is asked a question through its port, and drained.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value as Json, json};

use super::VERSION;
use crate::process;

/// A user that stands in no file, as OpenShift gives one to each project; its group is 0 there.
const ARBITRARY_USER: u32 = 1_000_660_000;
/// Longer than any start or end of a tiny model on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all checks and returns what could not be checked here, and why.
pub(super) fn run(layout: &Path, digest: &str, binary: &Path) -> Result<Vec<String>> {
    let work = PathBuf::from("target/image-check");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let mut skips = Vec::new();
    if process::is_installed("skopeo") {
        check_copy(layout, digest, &work)?;
    } else {
        skips.push("reading the image with skopeo (skopeo is missing)".to_owned());
    }
    match reason_against_running() {
        None => check_container(layout, binary, &work)?,
        Some(reason) => skips.push(format!("starting the image with runc ({reason})")),
    }
    Ok(skips)
}

/// skopeo takes the image for what we say that it is, and a copy is the same image.
fn check_copy(layout: &Path, digest: &str, work: &Path) -> Result<()> {
    let image = format!("oci:{}:{VERSION}", layout.display());
    let inspected: Json = serde_json::from_str(&process::output(Command::new("skopeo").args(["inspect", &image]))?)?;
    ensure!(inspected["Digest"] == digest, "skopeo sees {}, we wrote {digest}", inspected["Digest"]);
    let config: Json =
        serde_json::from_str(&process::output(Command::new("skopeo").args(["inspect", "--config", &image]))?)?;
    ensure!(config["config"]["User"] == super::USER, "skopeo sees the user {}", config["config"]["User"]);
    let copied = work.join("copied");
    let target = format!("oci:{}:{VERSION}", copied.display());
    // Without the option skopeo compresses the layer, which is another image with another digest.
    let copy = ["--insecure-policy", "copy", "--preserve-digests", &image, &target];
    process::output(Command::new("skopeo").args(copy))?;
    let hex = digest.trim_start_matches("sha256:");
    let same = fs::read(layout.join("blobs/sha256").join(hex))? == fs::read(copied.join("blobs/sha256").join(hex))?;
    ensure!(same, "skopeo changed the manifest while it copied it");
    println!("skopeo reads the image and copies it unchanged");
    Ok(())
}

/// Why no container can be started here; `None` where one can.
fn reason_against_running() -> Option<String> {
    if let Some(tool) = ["umoci", "runc"].into_iter().find(|tool| !process::is_installed(tool)) {
        return Some(format!("{tool} is missing"));
    }
    if process::output(Command::new("id").arg("-u")).is_ok_and(|user| user.trim() != "0") {
        return Some("it needs the superuser here".to_owned());
    }
    let namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "true"];
    process::output(Command::new("unshare").args(namespaces)).err().map(|error| format!("no namespaces: {error:#}"))
}

fn check_container(layout: &Path, binary: &Path, work: &Path) -> Result<()> {
    let site = Site::new(binary, &work.join("site"))?;
    let bundle = work.join("bundle");
    let image = format!("{}:{VERSION}", layout.display());
    process::output(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle))?;
    let address = free_address()?;
    let spec = bundle.join("config.json");
    let strict = strict(serde_json::from_slice(&fs::read(&spec)?)?, &site, address)?;
    fs::write(&spec, strict.to_string())?;

    let mut container = Container::start(&bundle, work)?;
    container.wait_until_healthy()?;
    container.check_rights()?;
    let ask = |request: &str| exchange(address, request);
    let (status, metadata) = ask(&format!(
        "GET /v1/metadata HTTP/1.1\r\nHost: check\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        site.key
    ))?;
    let is_inside = metadata.contains("\"required\":true") && !metadata.contains("\"applied\":false");
    ensure!(status == 200 && is_inside, "the container is not in its sandbox: {status} {metadata}");
    let (status, _) = ask("GET /v1/models HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n")?;
    ensure!(status == 401, "without a key the container answers {status}");
    let question = r#"{"model":"fixture-generator","max_tokens":4,"messages":[{"role":"user","content":"Hello"}]}"#;
    let (status, answer) = ask(&format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: check\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{question}",
        site.key,
        question.len()
    ))?;
    ensure!(status == 200 && answer.contains("chat.completion"), "the container answers {status}: {answer}");
    container.stop()?;
    println!(
        "runc starts the image as user {ARBITRARY_USER} on a read-only root without capabilities; it answers and drains"
    );
    Ok(())
}

/// What a site mounts: its configuration with root and keys, and a store with an active bundle.
struct Site {
    configuration: PathBuf,
    store: PathBuf,
    key: String,
}

impl Site {
    fn new(binary: &Path, folder: &Path) -> Result<Site> {
        let workspace = process::workspace_root();
        let fixtures = workspace.join("bundles/fixtures/serve");
        let folder = workspace.join(folder);
        let (configuration, store) = (folder.join("etc"), folder.join("store"));
        fs::create_dir_all(&configuration)?;
        let root = configuration.join("root.json");
        fs::copy(fixtures.join("root.json"), &root)?;
        let text = "store = '/var/lib/ampoule'\ntrust_root = 'root.json'\nkeys_file = 'keys.jsonl'\n";
        fs::write(configuration.join("ampoule.toml"), text)?;
        let keys = configuration.join("keys.jsonl");
        let ampoule = |arguments: &[&str]| {
            let mut command = Command::new(binary.canonicalize()?);
            process::output(command.args(arguments).env_remove("AMPOULE_CONFIG"))
        };
        let text = |path: &Path| path.display().to_string();
        let key = ampoule(&["keys", "add", "check", "--keys-file", &text(&keys)])?.trim().to_owned();
        // As a secret is mounted: readable by the group, written by nobody else.
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o640))?;
        let bundle = text(&fixtures.join("generator.bundle"));
        ampoule(&["import", &bundle, "--store", &text(&store), "--trust-root", &text(&root)])?;
        ampoule(&["activate", "fixture-generator", "--store", &text(&store)])?;
        Ok(Site { configuration, store, key })
    }
}

/// Makes umoci's rendering of the image as strict as a cluster's strictest profile.
fn strict(mut spec: Json, site: &Site, address: SocketAddr) -> Result<Json> {
    let process = &mut spec["process"];
    ensure!(process["args"] == json!(["/ampoule", "serve"]), "the image would run {}", process["args"]);
    let user = &process["user"];
    ensure!(user["uid"] == 65532 && user["gid"] == 65532, "the image would run as {user}");
    process["user"] = json!({ "uid": ARBITRARY_USER, "gid": 0 });
    process["terminal"] = json!(false);
    process["noNewPrivileges"] = json!(true);
    process["capabilities"] =
        json!({ "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] });
    let variables = process["env"].as_array_mut().context("umoci set no environment")?;
    variables.push(json!("AMPOULE_CONFIG=/etc/ampoule/ampoule.toml"));
    variables.push(json!(format!("AMPOULE_LISTEN={address}")));
    spec["root"]["readonly"] = json!(true);
    let mounts = spec["mounts"].as_array_mut().context("umoci mounted nothing")?;
    for (source, destination) in [(&site.configuration, "/etc/ampoule"), (&site.store, "/var/lib/ampoule")] {
        let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
        mounts.push(json!({ "destination": destination, "type": "bind", "source": source, "options": options }));
    }
    // Without a network of its own it listens on this host's loopback, where it can be asked.
    let namespaces = spec["linux"]["namespaces"].as_array_mut().context("umoci made no namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "network");
    Ok(spec)
}

/// A container that ends with its check.
struct Container {
    child: Child,
    id: String,
    state: PathBuf,
    log: PathBuf,
}

impl Container {
    fn start(bundle: &Path, work: &Path) -> Result<Container> {
        let id = format!("ampoule-image-check-{}", std::process::id());
        // A state folder of its own: no container of this machine is seen or touched.
        let (state, log) = (work.join("runc"), work.join("container.log"));
        let output = File::create(&log)?;
        let child = Command::new("runc")
            .arg("--root")
            .arg(&state)
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("runc did not start")?;
        Ok(Container { child, id, state, log })
    }

    fn runc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state).args(arguments);
        command
    }

    /// Asks as a HEALTHCHECK does, inside the container, until the answer is yes.
    fn wait_until_healthy(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while process::output(&mut self.runc(&["exec", &self.id, "/ampoule", "health"])).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the container ended with {status}:\n{}", self.told());
            }
            ensure!(Instant::now() < deadline, "the container does not become healthy:\n{}", self.told());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Looks from outside at what the process really has.
    fn check_rights(&self) -> Result<()> {
        let state: Json = serde_json::from_str(&process::output(&mut self.runc(&["state", &self.id]))?)?;
        let status = fs::read_to_string(format!("/proc/{}/status", state["pid"]))?;
        let expected = [
            format!("Uid:\t{ARBITRARY_USER}\t"),
            "CapEff:\t0000000000000000".to_owned(),
            "CapBnd:\t0000000000000000".to_owned(),
            "NoNewPrivs:\t1".to_owned(),
            "Seccomp:\t2".to_owned(),
        ];
        for line in expected {
            ensure!(status.contains(&line), "the process in the container lacks {line:?}:\n{status}");
        }
        Ok(())
    }

    /// Asks it to stop, as a cluster does, and requires that it drains.
    fn stop(&mut self) -> Result<()> {
        process::output(&mut self.runc(&["kill", &self.id, "TERM"]))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the container ended with {status}:\n{}", self.told());
                ensure!(self.told().contains("\"drained\""), "the container did not drain:\n{}", self.told());
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the container does not stop:\n{}", self.told());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // After a check that failed it may still run; after one that passed there is nothing left to delete.
        let _ = process::output(&mut self.runc(&["delete", "--force", &self.id]));
        let _ = self.child.wait();
    }
}

/// A loopback address that nobody has at the moment.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// One HTTP exchange: the status and the whole answer.
fn exchange(address: SocketAddr, request: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.with_context(|| format!("no HTTP answer: {answer:?}"))?, answer))
}
