//! Metrics: on a listener of their own, in Prometheus' text format, and never more series for what clients send.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{METADATA, errors, with};
use crate::catalogue::Case;
use crate::server::Server;
use crate::site::{Site, free_port};
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-MTR-01", "/metrics is not served beside the API", not_beside_the_api),
    Case::installed("AMP-MTR-02", "The metrics listener serves /metrics without a key, and nothing else", own_listener),
    Case::installed("AMP-MTR-03", "Requests and tokens are counted", counted),
    Case::installed("AMP-MTR-04", "Clients' paths, models and users make no new series (C48)", bounded_series),
];

/// How long after its answer a request may be counted: its line is written when the last byte has left.
const COUNTING_PATIENCE: Duration = Duration::from_secs(10);

fn not_beside_the_api(target: &Target) -> anyhow::Result<()> {
    let stranger = target.send("GET", "/metrics", &[], None)?;
    ensure!(stranger.status == 401, "a stranger's /metrics is answered {}", stranger.status);
    target.get("/metrics")?.error(404)?.coded("unknown_url")?;
    Ok(())
}

fn own_listener(site: &Site) -> anyhow::Result<()> {
    let (server, metrics) = serve(site)?;
    let page = metrics.send("GET", "/metrics", &[], None)?;
    ensure!(page.status == 200, "the page is answered {}", page.status);
    let kind = page.header("content-type").unwrap_or_default();
    ensure!(kind.starts_with("text/plain; version=0.0.4"), "the content type is {kind}");
    let text = String::from_utf8_lossy(&page.body).into_owned();
    let metadata = server.target().get(METADATA)?.json(200)?;
    let digest = metadata["bundle"]["digest"].as_str().context("no bundle digest")?;
    let info = text.lines().find(|line| line.starts_with("ampoule_bundle_info{"));
    ensure!(info.is_some_and(|line| line.contains(digest)), "ampoule_bundle_info does not name {digest}: {info:?}");
    for path in ["/", "/v1/models", METADATA, "/livez", "/metrics/x"] {
        let reply = metrics.send("GET", path, &[], None)?;
        ensure!(reply.status == 404, "the metrics listener answers {path} with {}", reply.status);
    }
    Ok(())
}

fn counted(site: &Site) -> anyhow::Result<()> {
    let (server, metrics) = serve(site)?;
    let facts = server.target().facts()?;
    let (path, request) = errors::smallest(facts);
    let usage = server.target().post(path, &request)?.json(200)?["usage"].clone();
    server.target().get("/nowhere")?.error(404)?;
    let endpoint = path.trim_start_matches("/v1/").replace('/', "_");
    let wanted = [
        format!("ampoule_requests_total{{endpoint=\"{endpoint}\",status=\"200\"}} 1"),
        "ampoule_requests_total{endpoint=\"other\",status=\"404\"} 1".to_owned(),
        format!("ampoule_prompt_tokens_total {}", usage["prompt_tokens"]),
        format!("ampoule_generation_tokens_total {}", usage["completion_tokens"].as_u64().unwrap_or(0)),
        "ampoule_requests_running 0".to_owned(),
        "ampoule_requests_queued 0".to_owned(),
    ];
    let started = Instant::now();
    loop {
        let page = page(&metrics)?;
        let missing = wanted.iter().find(|line| !page.lines().any(|found| found == line.as_str()));
        let Some(missing) = missing else { return Ok(()) };
        ensure!(started.elapsed() < COUNTING_PATIENCE, "the page does not say `{missing}`");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn bounded_series(site: &Site) -> anyhow::Result<()> {
    let (server, metrics) = serve(site)?;
    let target = server.target();
    let (path, request) = errors::smallest(target.facts()?);
    // One of each kind first: a series that exists is allowed, a series for each value is not.
    let ask = |number: usize| -> anyhow::Result<()> {
        target.get(&format!("/nowhere/{number}"))?;
        target.get(&format!("/v1/models/model-{number}"))?;
        target.post(path, &with(request.clone(), json!({ "user": format!("user-{number}") })))?;
        target.post(path, &with(request.clone(), json!({ "model": format!("model-{number}") })))?;
        Ok(())
    };
    ask(0)?;
    std::thread::sleep(Duration::from_millis(200));
    let before = series(&page(&metrics)?);
    for number in 1..25 {
        ask(number)?;
    }
    std::thread::sleep(Duration::from_millis(200));
    let page = page(&metrics)?;
    ensure!(series(&page) == before, "{before} series became {}", series(&page));
    ensure!(!page.contains("model-1") && !page.contains("user-1"), "a client's own value is a label");
    Ok(())
}

fn serve(site: &Site) -> anyhow::Result<(Server, Target)> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let server = site.serve(&["--metrics-listen", &address])?;
    Ok((server, Target::new(&format!("http://{address}"), None, None)?))
}

fn page(metrics: &Target) -> anyhow::Result<String> {
    let page = metrics.send("GET", "/metrics", &[], None)?;
    ensure!(page.status == 200, "the page is answered {}", page.status);
    Ok(String::from_utf8_lossy(&page.body).into_owned())
}

fn series(page: &str) -> usize {
    page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count()
}
