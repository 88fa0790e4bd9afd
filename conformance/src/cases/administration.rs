//! Administration: on a UNIX socket that is the operator's alone, by the installed command, and never over the network.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{METADATA, MODELS};
use crate::catalogue::Case;
use crate::server::Server;
use crate::site::Site;

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-ADM-01", "The admin socket is its owner's alone and goes with the server", the_owners),
    Case::installed("AMP-ADM-02", "An admin socket where everybody may write ends with 78", open_folder),
    Case::installed("AMP-ADM-03", "`adapters list` tells what is loaded; the API has no such path", listed),
    Case::installed("AMP-ADM-04", "What is no adapter is refused with its exit code, and changes nothing", refused),
    Case::installed("AMP-ADM-05", "Clients that connect and ask for nothing keep nobody from the admin socket", silent),
];

/// How many clients say nothing: more than an appliance can be expected to listen to.
const SILENT_CLIENTS: usize = 256;

/// Far longer than an answer takes, and shorter than waiting for so many to be given up, a few of them at a time.
const PROMPTLY: Duration = Duration::from_secs(20);

fn the_owners(site: &Site) -> anyhow::Result<()> {
    let (server, socket) = serve(site, "owner")?;
    let found = fs::symlink_metadata(&socket).context("the admin socket is not there")?;
    let mode = found.permissions().mode() & 0o7777;
    ensure!(found.file_type().is_socket() && mode == 0o600, "the admin socket has the mode {mode:o}");
    let second = site.flags().into_iter().chain(["--admin-socket".to_owned(), socket.clone()]);
    site.refuses_to_serve(&second.collect::<Vec<_>>(), 30, &[&socket])?;
    site.run(&["adapters", "list", "--admin-socket", &socket])?.requires(0, &[])?;
    let ended = server.stop()?;
    ensure!(ended.code == Some(0), "the server ended with {:?}", ended.code);
    ensure!(fs::symlink_metadata(&socket).is_err(), "the admin socket is still there");
    site.run(&["adapters", "list", "--admin-socket", &socket])?.requires(1, &[&socket])
}

fn open_folder(site: &Site) -> anyhow::Result<()> {
    let folder = site.folder().join("open-to-all");
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777))?;
    let socket = folder.join("admin.sock").display().to_string();
    let flags = site.flags().into_iter().chain(["--admin-socket".to_owned(), socket]);
    site.refuses_to_serve(&flags.collect::<Vec<_>>(), 78, &["open-to-all"])
}

fn listed(site: &Site) -> anyhow::Result<()> {
    let (server, socket) = serve(site, "list")?;
    let list = site.run(&["adapters", "list", "--json", "--admin-socket", &socket])?.json()?;
    ensure!(list["object"] == "list" && list["data"] == json!([]), "the list of no adapters is {list}");
    ensure!(list["limit"].is_u64(), "the list tells no limit: {list}");
    let metadata = server.target().get(METADATA)?.json(200)?;
    ensure!(metadata["adapters"] == list["data"], "the metadata tell of other adapters: {metadata}");
    for path in ["/adapters", "/adapters/x", "/v1/adapters"] {
        server.target().get(path)?.error(404)?.coded("unknown_url")?;
    }
    Ok(())
}

fn refused(site: &Site) -> anyhow::Result<()> {
    let (server, socket) = serve(site, "refuse")?;
    let before = server.target().get(MODELS)?.json(200)?;
    let junk = site.folder().join("junk.bundle");
    fs::write(&junk, [0x5a; 4096])?;
    let (base, junk) = (site.bundle().display().to_string(), junk.display().to_string());
    let load = |file: &str| site.run(&["adapters", "load", file, "--admin-socket", &socket]);
    thread::scope(|scope| {
        // Answers go on meanwhile.
        let asked = scope.spawn(|| server.target().get(MODELS)?.json(200));
        load(&base)?.requires(20, &["no adapter"])?;
        load(&junk)?.requires(10, &["junk.bundle"])?;
        load("absent.bundle")?.requires(10, &["absent.bundle"])?;
        asked.join().map_err(|_| anyhow::anyhow!("asking panicked"))?.map(|_| ())
    })?;
    site.run(&["adapters", "unload", "absent", "--admin-socket", &socket])?.requires(1, &["absent"])?;
    ensure!(server.target().get(MODELS)?.json(200)? == before, "something that was refused is served");
    Ok(())
}

fn silent(site: &Site) -> anyhow::Result<()> {
    let (server, socket) = serve(site, "silent")?;
    let mut clients = Vec::new();
    for number in 0..SILENT_CLIENTS {
        let mut client = UnixStream::connect(&socket).context("the admin socket takes no connection")?;
        // Every other one begins and does not go on.  That it may have been sent away by now is as good.
        let _ = client.write_all(if number % 2 == 0 { b"" } else { b"GET /adapters HTTP/1.1\r\nhost: " });
        clients.push(client);
    }
    let started = Instant::now();
    site.run(&["adapters", "list", "--admin-socket", &socket])?.requires(0, &[])?;
    let waited = started.elapsed();
    ensure!(waited < PROMPTLY, "the operator waited {} s behind clients that ask for nothing", waited.as_secs());
    drop(clients);
    let ended = server.stop()?;
    ensure!(ended.code == Some(0), "the server ended with {:?}", ended.code);
    Ok(())
}

/// A server with an admin socket in a folder of its own.
fn serve(site: &Site, name: &str) -> anyhow::Result<(Server, String)> {
    let folder = site.folder().join(name);
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    let socket = folder.join("admin.sock").display().to_string();
    Ok((site.serve(&["--admin-socket", &socket])?, socket))
}
