//! TLS with a site's own authority: made for each case, and trusted by nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, ensure};

use super::{MODELS, errors};
use crate::catalogue::Case;
use crate::certificates::Authority;
use crate::server::Server;
use crate::site::Site;
use crate::target::{Target, first_bytes};

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-TLS-01", "A client that trusts the site's authority is served over TLS", trusted),
    Case::installed("AMP-TLS-02", "A client that trusts another authority gets no answer", distrusted),
    Case::installed("AMP-TLS-03", "Plain HTTP on the TLS port gets no HTTP answer", plain_http),
    Case::installed(
        "AMP-TLS-04",
        "A private key that others may read, or that does not fit, ends with 30",
        unusable_files,
    ),
    Case::installed("AMP-TLS-05", "A deny-by-default surface and its limits hold over TLS as well", same_surface),
];

fn trusted(site: &Site) -> anyhow::Result<()> {
    let (server, _) = serve(site, "trusted")?;
    ensure!(server.target().url().starts_with("https://"), "the target is not https");
    server.target().get(MODELS)?.json(200)?;
    let (path, request) = errors::smallest(server.target().facts()?);
    server.target().post(path, &request)?.json(200)?;
    let ended = server.stop()?;
    ensure!(ended.code == Some(0), "the server ended with {:?}", ended.code);
    Ok(())
}

fn distrusted(site: &Site) -> anyhow::Result<()> {
    let (server, _) = serve(site, "distrusted")?;
    let stranger = Authority::make(site.folder(), "stranger")?;
    let url = server.target().url();
    let doubting = Target::new(&url, Some(site.key().to_owned()), Some(stranger.certificate_pem().as_bytes()))?;
    let outcome = doubting.send("GET", "/livez", &[], None);
    ensure!(outcome.is_err(), "a client that trusts another authority was answered");
    // The server is there, so the refusal was the client's own.
    server.target().get(MODELS)?.json(200)?;
    Ok(())
}

fn plain_http(site: &Site) -> anyhow::Result<()> {
    let (server, _) = serve(site, "plain")?;
    let url = server.target().url();
    let plain = Target::new(&url.replace("https://", "http://"), None, None)?;
    let answer = plain.connect()?.exchange_all(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let text = String::from_utf8_lossy(&answer);
    ensure!(!text.contains("HTTP/"), "plain HTTP was answered: {}", first_bytes(&answer));
    server.target().get(MODELS)?.json(200)?;
    Ok(())
}

fn unusable_files(site: &Site) -> anyhow::Result<()> {
    let authority = Authority::make(site.folder(), "unusable")?;
    let other = Authority::make(site.folder(), "other")?;
    let refused = |words: &[&str]| site.refuses_to_serve(&[site.flags(), authority.flags()].concat(), 30, words);
    fs::set_permissions(&authority.key, fs::Permissions::from_mode(0o644))?;
    refused(&["private key", "644"])?;
    fs::set_permissions(&authority.key, fs::Permissions::from_mode(0o600))?;
    fs::copy(&other.key, &authority.key)?;
    refused(&[])?;
    fs::write(&authority.chain, "no PEM at all")?;
    refused(&["unusable-chain.pem"])?;
    fs::remove_file(&authority.chain)?;
    refused(&["unusable-chain.pem"])
}

fn same_surface(site: &Site) -> anyhow::Result<()> {
    let (server, _) = serve(site, "surface")?;
    for path in ["/index.html", MODELS, "/v1/metadata", "/metrics", "/admin"] {
        let reply = server.target().send_head("GET", path, &[])?;
        ensure!(reply.status == 401, "GET {path} without a key is answered {} over TLS", reply.status);
    }
    let head = format!("{}content-length: 2000000000\r\n\r\n", server.target().head_of_post(super::CHAT)?);
    let reply = server.target().connect()?.first_reply(head.as_bytes()).context("a body that is too long")?;
    reply.error(413)?.coded("request_too_large")?;
    Ok(())
}

fn serve(site: &Site, name: &str) -> anyhow::Result<(Server, Authority)> {
    let authority = Authority::make(site.folder(), name)?;
    let flags = [site.flags(), authority.flags()].concat();
    let arguments: Vec<&str> = ["serve"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let server = site.serve_command(site.command(&arguments), Some(&authority))?;
    Ok((server, authority))
}
