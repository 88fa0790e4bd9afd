//! Judges what ships for watching an appliance with Prometheus' own tool: the alert rules, the cases that prove that each
//! alert fires when it should and only then, and the queries of the dashboard, which Grafana would check no earlier than
//! when somebody looks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::process;

/// Where all of it lies.
const FOLDER: &str = "packaging/observability";

/// What Grafana fills in before it asks Prometheus.
const VARIABLES: &[(&str, &str)] = &[("$__rate_interval", "1m"), ("$instance", ".*"), ("$job", ".*")];

/// Runs every check; needs `promtool`.
pub(crate) fn run() -> anyhow::Result<()> {
    promtool(&["check", "rules", "alerts.yaml"], Path::new(FOLDER))?;
    promtool(&["test", "rules", "alerts.test.yaml"], Path::new(FOLDER))?;
    let folder = Path::new("target/observability");
    std::fs::create_dir_all(folder)?;
    let text = std::fs::read_to_string(Path::new(FOLDER).join("grafana-dashboard.json"))?;
    // JSON is YAML too, and promtool reads any file that it is given.
    std::fs::write(folder.join("dashboard-queries.json"), dashboard_as_rules(&text)?.to_string())?;
    promtool(&["check", "rules", "dashboard-queries.json"], folder)
}

fn promtool(arguments: &[&str], folder: &Path) -> anyhow::Result<()> {
    process::run(Command::new("promtool").args(arguments).current_dir(folder))
}

/// The dashboard's queries as recording rules, the one form in which promtool checks a query without a server.
fn dashboard_as_rules(dashboard: &str) -> anyhow::Result<Value> {
    let dashboard: Value = serde_json::from_str(dashboard).context("the dashboard is not JSON")?;
    let panels = dashboard["panels"].as_array().context("the dashboard has no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.chain(dashboard["annotations"]["list"].as_array().into_iter().flatten());
    let mut rules = Vec::new();
    for query in queries.filter_map(|query| query["expr"].as_str()) {
        let expression = VARIABLES.iter().fold(query.to_owned(), |text, (name, value)| text.replace(name, value));
        ensure!(!expression.contains('$'), "a query has a variable that is not filled in: {query}");
        rules.push(json!({ "record": format!("dashboard:query:{}", rules.len()), "expr": expression }));
    }
    ensure!(!rules.is_empty(), "the dashboard asks for nothing");
    Ok(json!({ "groups": [{ "name": "dashboard", "rules": rules }] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_become_rules_and_an_unknown_variable_is_named() {
        let dashboard = |query: &str| json!({ "panels": [{}, { "targets": [{ "expr": query }] }] }).to_string();
        let rules = dashboard_as_rules(&dashboard("rate(a{job=~\"$job\"}[$__rate_interval])")).expect("good queries");
        assert_eq!(rules["groups"][0]["rules"][0]["expr"], "rate(a{job=~\".*\"}[1m])");
        let error = dashboard_as_rules(&dashboard("a{b=\"$c\"}")).expect_err("an unknown variable");
        assert!(error.to_string().contains("$c"), "{error}");
    }
}
