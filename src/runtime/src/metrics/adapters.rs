//! The series about adapters.  They are written afresh for each scrape, because a recorder keeps each set of labels for
//! ever, and an adapter that was unloaded must leave the page.
//!
//! Names and digests come from sealed bundles and hold no character that would need escaping.

use std::fmt::Write;

use super::Moment;

const INFO: &str = "ampoule_adapter_info";
const REQUESTS: &str = "ampoule_lora_requests_info";

/// The lines of both series, as of this moment.
pub(super) fn render(moment: &Moment) -> String {
    let mut page = String::new();
    let about = "The adapters that may be asked for, and those that are waited for; the value is the time of the page.";
    head(&mut page, REQUESTS, about);
    let running: Vec<&str> = moment.adapters.keys().map(String::as_str).collect();
    let waiting: Vec<&str> = moment.waiting_adapters.iter().map(String::as_str).collect();
    let (limit, seconds) = (moment.adapter_limit, moment.now.as_millisecond() as f64 / 1e3);
    let (running, waiting) = (running.join(","), waiting.join(","));
    let labels =
        format!("max_lora=\"{limit}\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\"");
    line(&mut page, REQUESTS, &labels, seconds);
    if !moment.adapters.is_empty() {
        head(&mut page, INFO, "A sealed adapter that may be asked for.");
    }
    for (name, digest) in &moment.adapters {
        let labels = format!("name=\"{name}\",digest=\"{digest}\"");
        line(&mut page, INFO, &labels, 1.0);
    }
    page
}

/// Writing to a string cannot fail.
fn head(page: &mut String, name: &str, about: &str) {
    let _ = writeln!(page, "# HELP {name} {about}\n# TYPE {name} gauge");
}

fn line(page: &mut String, name: &str, labels: &str, value: f64) {
    let _ = writeln!(page, "{name}{{{labels}}} {value}");
}
