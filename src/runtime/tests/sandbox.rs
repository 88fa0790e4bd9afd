//! The sandbox from inside, from beside, and where a layer of it is missing.  This file has a `main` of its own instead of
//! the test harness, because whoever enters must have one thread: the tests start this binary again to do so.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;

use ampoule::sandbox::{self, Reach, SandboxError};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::{Value, json};
use support::{Server, Site, chat, code, exchange, get, program, text};

const LAYERS: [&str; 5] = ["no_new_privileges", "core_dumps", "capabilities", "landlock", "seccomp"];

const TESTS: [(&str, fn()); 6] = [
    ("nothing_is_to_be_had_outside_the_folder_on_any_thread", nothing_is_to_be_had_outside_the_folder_on_any_thread),
    ("without_a_folder_a_server_opens_nothing_at_all", without_a_folder_a_server_opens_nothing_at_all),
    ("every_thread_of_a_server_is_inside", every_thread_of_a_server_is_inside),
    ("a_layer_that_is_missing_is_told_or_is_a_refusal", a_layer_that_is_missing_is_told_or_is_a_refusal),
    ("threads_that_were_there_before_are_no_secret", threads_that_were_there_before_are_no_secret),
    ("an_inherited_listener_serves_where_there_is_no_network", an_inherited_listener_serves_where_there_is_no_network),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["inside", stage, reach @ ..] => inside(stage, reach),
        ["crowded"] => crowded(),
        ["without", call, program, arguments @ ..] => without(call, program, arguments),
        // A filter of the test harness selects here too; its options mean nothing here.
        _ => {
            let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
            for (name, test) in TESTS {
                if filters.is_empty() || filters.iter().any(|filter| name.contains(**filter)) {
                    test();
                    println!("test {name} ... ok");
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// What was tried and the kind of error that came of it; none where it worked.
type Outcomes = BTreeMap<&'static str, Option<String>>;

/// A child that is inside, and what each of its threads could do there.
struct Inside {
    child: Child,
    threads: Vec<Outcomes>,
}

impl Inside {
    fn start(stage: &str, reach: &[&str]) -> Inside {
        let mut command = program(std::env::current_exe().unwrap());
        let child = command.args(["inside", stage]).args(reach).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let mut told = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.as_mut().unwrap()), &mut told).unwrap();
        let threads: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("the child said {told:?}"));
        let threads = threads.as_array().unwrap().iter().map(|outcomes| {
            let outcomes = outcomes.as_object().unwrap().iter();
            outcomes.map(|(name, error)| (name.clone().leak() as &str, error.as_str().map(str::to_owned))).collect()
        });
        Inside { threads: threads.collect(), child }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Enters, tries everything on threads of each kind that a server has, tells, and waits to be looked at.
fn inside(stage: &str, reach: &[&str]) {
    let folder = reach.first().map(|folder| Path::new(*folder).to_owned());
    let loading =
        sandbox::enter(&Reach { folders: folder.iter().cloned().collect(), tidied: Vec::new() }, true).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (go, gone) = mpsc::channel::<()>();
    let try_all = move || attempts(folder.as_deref());
    let started_before = thread::spawn({
        let try_all = try_all.clone();
        move || {
            // The other side is dropped when the sandbox is as it shall be.
            let _ = gone.recv();
            try_all()
        }
    });
    if stage == "serving" {
        loading.close().unwrap();
    }
    drop(go);
    let mut threads = vec![started_before.join().unwrap(), try_all()];
    threads.push(thread::spawn(try_all.clone()).join().unwrap());
    let on_worker = try_all.clone();
    threads.push(runtime.block_on(async { tokio::spawn(async move { on_worker() }).await }).unwrap());
    threads.push(runtime.block_on(async { tokio::task::spawn_blocking(try_all).await }).unwrap());
    println!("{}", json!(threads));
    // The end of standard input is the end of the test.
    let _ = io::stdin().read(&mut [0]);
}

fn attempts(folder: Option<&Path>) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut attempt = |name: &'static str, outcome: io::Result<()>| {
        outcomes.insert(name, outcome.err().map(|error| format!("{:?}", error.kind())));
    };
    attempt("a datagram socket", UdpSocket::bind("127.0.0.1:0").map(drop));
    attempt("a connection", TcpStream::connect("127.0.0.1:9").map(drop));
    attempt("a listener", TcpListener::bind("127.0.0.1:0").map(drop));
    attempt("a UNIX socket", UnixListener::bind("/tmp/ampoule-test-socket").map(drop));
    attempt("a new process", Command::new("/bin/true").spawn().map(drop));
    attempt("another program", Err(Command::new("/bin/true").exec()));
    attempt("reading a file", File::open("/etc/passwd").map(drop));
    attempt("writing a file", fs::write("/tmp/ampoule-test-file", "x"));
    attempt("listing a folder", fs::read_dir("/").map(drop));
    attempt("looking into itself", File::open("/proc/self/environ").map(drop));
    let elsewhere = folder.map_or(Path::new("/etc/ampoule-test-none").to_owned(), |folder| folder.join("../outside"));
    attempt("removing a file", fs::remove_file(elsewhere));
    let parent = rustix::process::getppid().unwrap();
    attempt("a signal", rustix::process::kill_process(parent, rustix::process::Signal::CONT).map_err(io::Error::from));
    let memory = rustix::process::Resource::Memlock;
    let limit = rustix::process::getrlimit(memory);
    attempt("setting a limit", rustix::process::setrlimit(memory, limit).map_err(io::Error::from));
    if let Some(folder) = folder {
        let path = |name: &str| folder.join(format!("{name}-{:?}", thread::current().id()));
        let written = fs::write(path("new"), "kept").and_then(|()| fs::rename(path("new"), path("state")));
        attempt("keeping a file there", written.and_then(|()| File::open(path("state"))?.sync_all()));
        attempt("removing it there", fs::remove_file(path("state")));
        attempt("a link out of there", File::open(folder.join("link")).map(drop));
        attempt("climbing out of there", File::open(folder.join("../outside")).map(drop));
        attempt("moving it out of there", fs::rename(folder.join("kept"), folder.join("../moved")));
        attempt("a new link there", symlink("/etc/passwd", path("new-link")));
    }
    outcomes
}

fn nothing_is_to_be_had_outside_the_folder_on_any_thread() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("state");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("kept"), "kept").unwrap();
    fs::write(outer.path().join("outside"), "secret").unwrap();
    symlink("/etc/passwd", folder.join("link")).unwrap();
    let is_allowed = |name: &str| ["keeping a file there", "removing it there"].contains(&name);
    for stage in ["loading", "serving"] {
        let inside = Inside::start(stage, &[folder.to_str().unwrap()]);
        assert_eq!(inside.threads.len(), 5);
        for outcomes in &inside.threads {
            assert!(outcomes.len() >= 19, "{outcomes:?}");
            for (name, error) in outcomes {
                let expected = if is_allowed(name) { None } else { Some("PermissionDenied") };
                let crosses = *name == "moving it out of there" && error.as_deref() == Some("CrossesDevices");
                assert!(error.as_deref() == expected || crosses, "{stage}: {name}: {error:?}");
            }
        }
        requires_confined_threads(inside.child.id(), 4);
    }
}

fn without_a_folder_a_server_opens_nothing_at_all() {
    let inside = Inside::start("serving", &[]);
    for outcomes in &inside.threads {
        for (name, error) in outcomes {
            assert_eq!(error.as_deref(), Some("PermissionDenied"), "{name}");
        }
    }
}

/// Reads from outside what the kernel says about every thread of a process.
fn requires_confined_threads(process: u32, at_least: usize) {
    let tasks: Vec<_> =
        fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path()).collect();
    assert!(tasks.len() >= at_least, "{} threads", tasks.len());
    for task in tasks {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
        };
        assert_eq!((value("Seccomp"), value("NoNewPrivs")), ("2".to_owned(), "1".to_owned()), "{status}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(value(set), "0000000000000000", "{set} of {}", value("Name"));
        }
    }
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

fn over_http(server: &Server, request: &str) -> (u16, String) {
    exchange(&mut TcpStream::connect(server.address).unwrap(), request)
}

fn layers(server: &Server, site: &Site) -> (Value, BTreeMap<String, Value>) {
    let (status, body) = over_http(server, &get("/v1/metadata", Some(&site.key)));
    assert_eq!(status, 200, "{body}");
    let metadata: Value = serde_json::from_str(&body).unwrap();
    let layers = metadata["sandbox"]["layers"].as_array().unwrap().iter();
    let layers = layers.map(|layer| (layer["layer"].as_str().unwrap().to_owned(), layer["applied"].clone())).collect();
    (metadata["sandbox"]["required"].clone(), layers)
}

fn every_thread_of_a_server_is_inside() {
    let site = Site::new();
    let server = site.serve(&["--set", "sandbox.required=true", "--model-name", "helper"]);
    assert_eq!(over_http(&server, &chat("helper", &site.key, 4)).0, 200);
    requires_confined_threads(server.process_id(), 4);
    let (required, layers) = layers(&server, &site);
    assert_eq!(required, true);
    assert_eq!(layers, LAYERS.map(|layer| (layer.to_owned(), json!(true))).into());
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

/// Takes a system call away from this process, as an older kernel or a container would, and becomes another program.
fn without(call: &str, program: &str, arguments: &[&str]) {
    let number = match call {
        "landlock" => libc::SYS_landlock_create_ruleset,
        "seccomp" => libc::SYS_seccomp,
        other => panic!("{other} cannot be taken away"),
    };
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = BTreeMap::from([(number, Vec::new())]);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    panic!("{program}: {}", Command::new(program).args(arguments).exec());
}

fn a_layer_that_is_missing_is_told_or_is_a_refusal() {
    let site = Site::new();
    for layer in ["landlock", "seccomp"] {
        let command = |arguments: &[&str]| {
            let mut command = program(std::env::current_exe().unwrap());
            command.args(["without", layer, env!("CARGO_BIN_EXE_ampoule")]).args(arguments).stdin(Stdio::null());
            command
        };
        let serve =
            [&["serve"][..], &site.flags(), &["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]].concat();
        let required = [&serve[..], &["--set", "sandbox.required=true"]].concat();
        let refused = command(&required).output().unwrap();
        let told = text(&refused.stderr);
        assert_eq!(code(&refused), 78, "{told}");
        assert!(told.contains("`sandbox.required` is true") && told.contains(&format!("{layer} (")), "{told}");

        let server = Server::start(command(&serve));
        let warned = |line: &String| line.contains("a layer of the sandbox is missing") && line.contains(layer);
        assert!(server.told.iter().any(warned), "{:#?}", server.told);
        let (required, layers) = layers(&server, &site);
        assert_eq!(required, false);
        assert_eq!(layers, LAYERS.map(|name| (name.to_owned(), json!(name != layer))).into());
        let serving: Value = serde_json::from_str(server.told.last().unwrap()).unwrap();
        let metrics = serving["metrics_address"].as_str().unwrap();
        let page = exchange(&mut TcpStream::connect(metrics).unwrap(), &get("/metrics", None)).1;
        for name in LAYERS {
            let series = format!("ampoule_sandbox_layer_applied{{layer=\"{name}\"}} {}", u8::from(name != layer));
            assert!(page.contains(&series), "{series} is not in {page}");
        }

        let doctor = [&["doctor", "--json"][..], &site.flags()].concat();
        for (more, level) in [(&[][..], "warning"), (&["--set", "sandbox.required=true"], "failed")] {
            let output = command(&[&doctor[..], more].concat()).output().unwrap();
            assert_eq!(code(&output), if level == "failed" { 3 } else { 4 }, "{}", text(&output.stderr));
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            let finding =
                told["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == layer).unwrap();
            assert!(finding["level"] == level && finding["advice"].is_string(), "{finding}");
        }
    }
}

fn threads_that_were_there_before_are_no_secret() {
    let mut command = program(std::env::current_exe().unwrap());
    let output = command.args(["crowded"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
}

/// Enters while there is another thread, which the layers that are put up for one thread would leave out.
fn crowded() {
    let (stop, stopped) = mpsc::channel::<()>();
    let other = thread::spawn(move || stopped.recv().is_err());
    let SandboxError::Missing { missing } = sandbox::enter(&Reach::default(), true).unwrap_err();
    for layer in ["no_new_privileges", "capabilities", "landlock"] {
        assert!(missing.contains(&format!("{layer} (1 other threads run already")), "{missing}");
    }
    assert!(!missing.contains("seccomp ("), "the filter is put up for all threads: {missing}");
    drop(stop);
    assert!(other.join().unwrap());
}

fn an_inherited_listener_serves_where_there_is_no_network() {
    let site = Site::new();
    let probe = Command::new("unshare").args(["-rn", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: a server in an empty network namespace (unshare is missing or may not)");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Passed as systemd does, as descriptor 3; the standard library passes only the first three.
    let pass = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let mut command = program("unshare");
    command.args(["-rn", "sh", "-c", pass, env!("CARGO_BIN_EXE_ampoule"), "serve"]).args(site.flags());
    command.args(["--set", "sandbox.required=true", "--model-name", "helper"]).stdin(OwnedFd::from(listener));
    let server = Server::start(command);
    assert_eq!(server.address, address);
    let network = fs::read_to_string(format!("/proc/{}/net/dev", server.process_id())).unwrap();
    assert_eq!(network.lines().count(), 3, "there is another network than the one that leads nowhere: {network}");
    assert_eq!(over_http(&server, &chat("helper", &site.key, 4)).0, 200);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}
