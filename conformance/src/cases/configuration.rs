//! A configuration that is wrong ends the start with 78 and says what, where and what was probably meant.  Nothing is
//! ignored, and nothing unsafe is assumed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use serde_json::json;

use crate::catalogue::Case;
use crate::site::{Site, free_port};

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-CFG-01", "An unknown key ends with 78 and a did-you-mean", unknown_key),
    Case::installed(
        "AMP-CFG-02",
        "An unknown AMPOULE_ variable ends with 78; Kubernetes' service links do not",
        unknown_variable,
    ),
    Case::installed("AMP-CFG-03", "Every mistake is told at once", all_mistakes),
    Case::installed("AMP-CFG-04", "A missing key file ends with 78 and says how to make one", missing_keys),
    Case::installed("AMP-CFG-05", "A key file without keys ends with 78", empty_keys),
    Case::installed("AMP-CFG-06", "Without a trust root nothing is served: 78", no_trust_root),
    Case::installed("AMP-CFG-07", "Plain HTTP beyond loopback ends with 78 and names its opt-out", plain_http),
    Case::installed(
        "AMP-CFG-08",
        "A trust root or a key file that others may write is refused with 78",
        writable_files,
    ),
    Case::installed("AMP-CFG-09", "`config show` tells where each value comes from", provenance),
    Case::installed("AMP-CFG-10", "`config check` passes what `serve` serves, and opens no port", check_is_serve),
];

fn unknown_key(site: &Site) -> anyhow::Result<()> {
    let file = site.folder().join("unknown.toml");
    fs::write(&file, "bundel = 'm'\n")?;
    let flags = [site.flags(), vec!["--config".to_owned(), file.display().to_string()]].concat();
    site.refuses_to_serve(&flags, 78, &["bundel", "did you mean `bundle`?", "unknown.toml"])?;
    let flags = [site.flags(), vec!["--set".to_owned(), "limits.running_request=4".to_owned()]].concat();
    site.refuses_to_serve(&flags, 78, &["limits.running_request", "did you mean"])
}

fn unknown_variable(site: &Site) -> anyhow::Result<()> {
    let flags = site.flags();
    let arguments: Vec<&str> = ["config", "check"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let with = |variables: &[(&str, &str)]| {
        let mut command = site.command(&arguments);
        command.envs(variables.iter().copied());
        crate::site::finish(command, std::time::Duration::from_secs(300))
    };
    with(&[("AMPOULE_LIMITS__RUNNING_REQUEST", "4")])?
        .requires(78, &["AMPOULE_LIMITS__RUNNING_REQUEST", "did you mean"])?;
    // Kubernetes sets these in every pod beside a service that is called `ampoule`.
    let links = [
        ("AMPOULE_SERVICE_HOST", "10.0.0.1"),
        ("AMPOULE_SERVICE_PORT", "8080"),
        ("AMPOULE_PORT", "tcp://10.0.0.1:8080"),
        ("AMPOULE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("AMPOULE_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    with(&links)?.requires(0, &[])
}

fn all_mistakes(site: &Site) -> anyhow::Result<()> {
    let file = site.folder().join("mistakes.toml");
    fs::write(&file, "bundel = 'm'\n[limits]\nbody_bytes = 'x'\nconnections = 0\n")?;
    let flags = ["--config".to_owned(), file.display().to_string()];
    site.refuses_to_serve(&flags, 78, &["bundel", "body_bytes", "connections"])
}

fn missing_keys(site: &Site) -> anyhow::Result<()> {
    let missing = site.folder().join("no-such-keys.jsonl");
    let flags = site.flags_for(site.bundle(), site.root(), &missing);
    site.refuses_to_serve(&flags, 78, &["no-such-keys.jsonl", "ampoule keys add"])
}

fn empty_keys(site: &Site) -> anyhow::Result<()> {
    let empty = site.folder().join("empty-keys.jsonl");
    fs::write(&empty, "")?;
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o600))?;
    let flags = site.flags_for(site.bundle(), site.root(), &empty);
    site.refuses_to_serve(&flags, 78, &["holds no key"])
}

fn no_trust_root(site: &Site) -> anyhow::Result<()> {
    let flags = site.flags();
    let lacking: Vec<String> =
        flags.iter().enumerate().filter(|(at, _)| !(2..4).contains(at)).map(|(_, flag)| flag.clone()).collect();
    site.refuses_to_serve(&lacking, 78, &["trust_root", "no default trust"])
}

fn plain_http(site: &Site) -> anyhow::Result<()> {
    for address in ["0.0.0.0", "[::]"] {
        let listen = vec!["--listen".to_owned(), format!("{address}:{}", free_port()?)];
        let flags = [site.flags(), listen].concat();
        site.refuses_to_serve(&flags, 78, &["allow_plain_http_beyond_loopback"])?;
    }
    Ok(())
}

fn writable_files(site: &Site) -> anyhow::Result<()> {
    let (root, keys) = (site.folder().join("open-root.json"), site.folder().join("open-keys.jsonl"));
    fs::copy(site.root(), &root)?;
    fs::copy(site.keys(), &keys)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o646))?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o620))?;
    site.refuses_to_serve(&site.flags_for(site.bundle(), &root, site.keys()), 78, &["open-root.json"])?;
    site.refuses_to_serve(&site.flags_for(site.bundle(), site.root(), &keys), 78, &["open-keys.jsonl"])
}

fn provenance(site: &Site) -> anyhow::Result<()> {
    let file = site.folder().join("provenance.toml");
    fs::write(&file, "[limits]\nrunning_requests = 3\n")?;
    let path = file.display().to_string();
    let arguments = ["config", "show", "--json", "--config", &path, "--set", "limits.queued_requests=5"];
    let mut command = site.command(&arguments);
    command.env("AMPOULE_LOG__LEVEL", "warn");
    let shown = crate::site::finish(command, std::time::Duration::from_secs(60))?.json()?;
    for (key, value, origin) in [
        ("limits.running_requests", json!(3), "provenance.toml"),
        ("limits.queued_requests", json!(5), "--set"),
        ("log.level", json!("warn"), "AMPOULE_LOG__LEVEL"),
        ("limits.connections", json!(512), "built in"),
    ] {
        let option = &shown["options"][key];
        ensure!(option["value"] == value, "{key} is {option}");
        ensure!(
            option["origin"].as_str().is_some_and(|found| found.contains(origin)),
            "{key} does not come from {origin}: {option}"
        );
    }
    Ok(())
}

fn check_is_serve(site: &Site) -> anyhow::Result<()> {
    let port = free_port()?;
    // Somebody else's listener: a check that took the port would fail.
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let listen = ["--listen".to_owned(), format!("127.0.0.1:{port}")];
    let flags = [site.flags(), listen.to_vec()].concat();
    let arguments: Vec<&str> = ["config", "check"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let checked = site.run(&arguments)?;
    checked.requires(0, &[])?;
    ensure!(checked.stdout.contains("sha256:"), "`config check` does not say what it checked: {}", checked.stdout);
    Ok(())
}
