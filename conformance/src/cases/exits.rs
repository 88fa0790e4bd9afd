//! Exit codes, by which service managers and scripts act: each is reached by a real run.

use std::net::TcpListener;

use anyhow::ensure;

use crate::catalogue::Case;
use crate::site::{Site, free_port};

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-EXIT-01", "0 for an answer: `version` says what is installed", version),
    Case::installed("AMP-EXIT-02", "2 for wrong usage", usage),
    Case::installed("AMP-EXIT-03", "3 for a check that failed: `health` of a server that is not there", health),
    Case::installed("AMP-EXIT-04", "30 for an address that somebody has", taken_address),
    Case::installed("AMP-EXIT-05", "0 after SIGTERM and after SIGINT, when nothing runs", stopped),
];

fn version(site: &Site) -> anyhow::Result<()> {
    let version = site.run(&["version", "--json"])?.json()?;
    let number = version["version"].as_str().unwrap_or_default();
    let is_number = number.split('.').count() >= 3 && number.starts_with(|c: char| c.is_ascii_digit());
    ensure!(is_number, "the version is {version}");
    let printed = site.run(&["--version"])?;
    printed.requires(0, &[])?;
    ensure!(printed.stdout.contains(number), "`--version` says {}, `version` {number}", printed.stdout);
    Ok(())
}

fn usage(site: &Site) -> anyhow::Result<()> {
    site.run(&["srve"])?.requires(2, &["serve"])?;
    site.run(&["verify", "some.bundle"])?.requires(2, &["--trust-root"])?;
    site.run(&[])?.requires(2, &["Usage"])
}

fn health(site: &Site) -> anyhow::Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    site.run(&["health", "--listen", &address])?.requires(3, &[])?;
    let server = site.serve(&[])?;
    let url = server.target().url();
    site.run(&["health", "--listen", url.trim_start_matches("http://")])?.requires(0, &[])
}

fn taken_address(site: &Site) -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let flags = [site.flags(), vec!["--listen".to_owned(), address.clone()]].concat();
    site.refuses_to_serve(&flags, 30, &[&address])
}

fn stopped(site: &Site) -> anyhow::Result<()> {
    for signal in ["TERM", "INT"] {
        let server = site.serve(&[])?;
        let url = server.target().url();
        server.signal(signal)?;
        let ended = server.ended()?;
        ensure!(ended.code == Some(0), "SIG{signal} ended it with {:?}", ended.code);
        let address = url.trim_start_matches("http://");
        ensure!(std::net::TcpStream::connect(address).is_err(), "after SIG{signal} somebody still listens");
    }
    Ok(())
}
