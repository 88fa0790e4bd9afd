//! What we publish about the metrics is true of a live page: the table of series, the dashboard, the alert rules, and the
//! runbooks behind them.  A dashboard that asks for a series which nobody exports shows nothing, and nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ampoule::metrics::{Metrics, Moment};
use serde_json::{Value, json};

use crate::support::{Setup, chat};

/// The type and the labels of each family of series.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../packaging/observability")
}

fn published(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The families of a page on which every endpoint was asked something.
fn live_families() -> Families {
    let server = Setup::default().start();
    assert_eq!(server.post("/v1/chat/completions", &chat("hello")).status, 200);
    server.get("/v1/nowhere");
    let started = Instant::now();
    let page = loop {
        let page = server.metrics().text().to_owned();
        if page.contains("endpoint=\"other\",status=\"404\"") {
            break page;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{page}");
    };
    // No adapter fits the model of these tests; `tests/adapters.rs` sees this series on a live page.
    let adapters = [("facts".to_owned(), "sha256:00".to_owned())].into();
    let page = page + &Metrics::new().render(&Moment { adapters, ..Moment::default() });
    let mut families = Families::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let end = line.find(['{', ' ']).unwrap();
        let family = family_of(&line[..end], &families).unwrap_or_else(|| panic!("{line} has no TYPE"));
        let labels = line[end..].strip_prefix('{').map_or("", |rest| rest.split_once('}').unwrap().0);
        let names = labels.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(name, _)| name.to_owned());
        let names: Vec<String> = names.filter(|name| name != "le").collect();
        families.get_mut(&family).unwrap().1.extend(names);
    }
    families
}

/// The family that a series belongs to: a histogram has three series under names of their own.
fn family_of(series: &str, families: &Families) -> Option<String> {
    if families.contains_key(series) {
        return Some(series.to_owned());
    }
    let stem = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| series.strip_suffix(suffix))?;
    families.get(stem).filter(|(kind, _)| kind == "histogram").map(|_| stem.to_owned())
}

#[test]
fn the_table_of_series_is_the_live_page() {
    let mut documented = Families::new();
    for line in published("README.md").lines().filter(|line| line.starts_with("| `ampoule_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("{line}") };
        assert!(!meaning.is_empty(), "{line}");
        let labels =
            labels.split(", ").filter(|label| !label.is_empty()).map(|label| label.trim_matches('`').to_owned());
        documented.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels.collect()));
    }
    assert_eq!(documented, live_families());
}

#[test]
fn dashboard_and_rules_ask_for_series_that_exist() {
    let families = live_families();
    let rules = published("alerts.yaml");
    let recorded: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    for file in ["alerts.yaml", "alerts.test.yaml", "grafana-dashboard.json"] {
        let text = published(file);
        let asked = names_in(&text);
        assert!(asked.len() > 5, "{file} asks for {asked:?} only");
        for name in asked {
            let exists = recorded.contains(name.as_str()) || family_of(&name, &families).is_some();
            assert!(exists, "{file} asks for {name}, which no page holds and no rule records");
        }
    }
}

/// Every name of ours in a text: the words that begin with `ampoule_` or, for recorded series, `ampoule:`.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_part(c))
        .map(|word| word.trim_end_matches(':'))
        .filter(|word| word.starts_with("ampoule_") || word.starts_with("ampoule:"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_alert_is_tested_both_ways_and_has_its_runbook() {
    let rules = published("alerts.yaml");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    let links: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    let cases = test_cases();
    let mut runbooks: BTreeSet<String> = std::fs::read_dir(folder().join("runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for alert in &alerts {
        let runbook = format!("{alert}.md");
        assert!(links.contains(format!("runbooks/{runbook}").as_str()), "{alert} links to no runbook of its own");
        assert!(runbooks.remove(&runbook), "runbooks/{runbook} is missing");
        let text = published(&format!("runbooks/{runbook}"));
        assert!(text.lines().count() <= 25, "{runbook} is longer than somebody who was woken up reads");
        assert!(text.starts_with(&format!("# {alert}\n")), "{runbook} has another title");
        for part in ["**Meaning.**", "**Look at.**", "**Safe action.**", "**Rollback.**", "**Who.**"] {
            assert!(text.contains(part), "{runbook} lacks {part}");
        }
        for fires in [true, false] {
            assert!(cases.contains(&((*alert).to_owned(), fires)), "{alert}: no case where it fires = {fires}");
        }
    }
    assert!(runbooks.is_empty(), "runbooks without an alert: {runbooks:?}");
}

/// The alerts of `alerts.test.yaml`, each with whether the case expects it to fire.
fn test_cases() -> BTreeSet<(String, bool)> {
    let text = published("alerts.test.yaml");
    let mut lines = text.lines().map(str::trim).peekable();
    let mut cases = BTreeSet::new();
    while let Some(line) = lines.next() {
        if let Some(alert) = line.strip_prefix("alertname: ") {
            let expected = lines.next().unwrap_or_default();
            assert!(expected.starts_with("exp_alerts:"), "{alert} is followed by {expected:?}");
            cases.insert((alert.to_owned(), expected != "exp_alerts: []"));
        }
    }
    cases
}

#[test]
fn the_dashboard_has_its_panels_and_no_data_source_of_ours() {
    let dashboard: Value = serde_json::from_str(&published("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        assert_eq!(panel["datasource"], json!({ "type": "prometheus", "uid": "${datasource}" }), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && targets.iter().all(|target| target["expr"].is_string()), "{title}");
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title} explains nothing");
    }
    assert!(ids.len() >= 12, "{}", ids.len());
}
