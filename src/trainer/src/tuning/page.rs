//! The report as one HTML page: curves as inline SVG, samples as a table. Nothing in it is loaded from anywhere, and all
//! text of the data is escaped.

use std::fmt::Write;

use super::report::{Extent, KeptAside, Report};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
/// Room for the numbers at the left and the bottom.
const MARGIN: f64 = 48.0;
/// A curve has at most this many points; each is the mean of the steps that it stands for.
const MAX_POINTS: usize = 360;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #ccc}
th{font-weight:600;white-space:nowrap}td{white-space:pre-wrap;overflow-wrap:anywhere}code{font-size:.9em;overflow-wrap:anywhere}
svg{width:100%;height:auto}svg text{font-size:12px;fill:currentColor}
@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#16181c}th,td{border-color:#444}}";

/// The whole page.
pub(super) fn html(report: &Report) -> String {
    let name = escaped(&report.base.name);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Adapter of {name}</title>\n<style>\n{STYLE}\n</style></head>\n<body>\n<h1>Adapter of {name}</h1>\n"
    );
    let _ = writeln!(page, "<p>{}</p>", escaped(&verdict(report)));
    let losses: Vec<Point> =
        report.curves.losses.iter().enumerate().map(|(step, loss)| ((step + 1) as f64, f64::from(*loss))).collect();
    let held_out: Vec<Point> =
        report.curves.held_out.iter().map(|(step, loss)| (*step as f64, f64::from(*loss))).collect();
    page.push_str("<h2>Loss</h2>\n<p>Nats a token that is learnt, by step.</p>\n");
    page.push_str(&chart(&[("training", "#3b78c4", &thinned(&losses)), ("held out", "#d9822b", &held_out)]));
    let steps = report.steps();
    let rates: Vec<Point> =
        (1..=steps).map(|step| (step as f64, report.settings.rate(step, planned(report)))).collect();
    page.push_str("<h2>Learning rate</h2>\n");
    page.push_str(&chart(&[("rate", "#4c9a52", &thinned(&rates))]));
    page.push_str(&samples(report));
    page.push_str(&forgetting(report));
    page.push_str(&facts(report));
    page.push_str("</body></html>\n");
    page
}

/// One sentence for whoever reads no further.
fn verdict(report: &Report) -> String {
    let losses = &report.curves.losses;
    let (first, last) = (losses.first().copied().unwrap_or(0.0), losses.last().copied().unwrap_or(0.0));
    let early = if report.ended_early { ", ended early because the held-out examples got no better" } else { "" };
    let held_out = report.held_out_loss.map_or_else(
        || "; there was no held-out data, so nothing says how it does on questions that it has not seen".to_owned(),
        |loss| format!("; the adapter that was kept has a held-out loss of {loss:.4}"),
    );
    format!("{} steps{early}: the training loss went from {first:.4} to {last:.4}{held_out}.", report.steps())
}

/// The steps that the schedule was laid out for.
fn planned(report: &Report) -> usize {
    report.settings.steps(report.examples.examples)
}

fn samples(report: &Report) -> String {
    if report.samples.is_empty() {
        return String::new();
    }
    let of = if report.held_out_examples.is_some() { "held-out" } else { "training" };
    let rows = report.samples.iter().map(|sample| {
        let cells = [&sample.question, &sample.expected, &sample.before, &sample.after];
        cells.map(String::as_str)
    });
    let table = table(["Asked", "Expected", "Base", "With the adapter"], rows);
    format!("<h2>Before and after</h2>\n<p>The first {of} examples, answered without chance.</p>\n{table}")
}

/// What is left of what the base knew.
fn forgetting(report: &Report) -> String {
    let mut section = format!("<h2>What the base knew</h2>\n<p>{}</p>\n", escaped(&report.forgetting()));
    if let Some(KeptAside { samples, .. }) = report.kept_aside.as_ref().filter(|kept| !kept.samples.is_empty()) {
        let rows = samples.iter().map(|sample| [&sample.question, &sample.before, &sample.after].map(String::as_str));
        section.push_str("<p>Some of them, those that are answered otherwise first.</p>\n");
        section.push_str(&table(["Asked", "Base", "With the adapter"], rows));
    }
    section
}

fn table<'a, const COLUMNS: usize>(names: [&str; COLUMNS], rows: impl Iterator<Item = [&'a str; COLUMNS]>) -> String {
    let names: String = names.iter().map(|name| format!("<th>{name}</th>")).collect();
    let mut table = format!("<table><tr>{names}</tr>\n");
    for row in rows {
        let cells: String = row.iter().map(|text| format!("<td>{}</td>", said(text))).collect();
        let _ = writeln!(table, "<tr>{cells}</tr>");
    }
    table.push_str("</table>\n");
    table
}

/// A text in a cell: that a model says nothing is told in words, because an empty cell looks like a defect of the page.
fn said(text: &str) -> String {
    if text.trim().is_empty() { "<i>(nothing)</i>".to_owned() } else { escaped(text) }
}

fn facts(report: &Report) -> String {
    let settings = &report.settings;
    let told = |extent: Option<Extent>| extent.map_or_else(|| "none".to_owned(), |extent| extent.to_string());
    let rows = [
        ("Base", format!("{} {}", report.base.name, report.base.version)),
        ("Manifest of the base", report.base.manifest.clone()),
        ("Examples", report.examples.to_string()),
        ("Rehearsed", told(report.rehearsals)),
        ("Held out", told(report.held_out_examples)),
        ("Linear layers adapted", report.modules.to_string()),
        ("Rank, alpha", format!("{}, {}", settings.rank, settings.alpha)),
        ("Epochs, batch", format!("{}, {}", settings.epochs, settings.batch)),
        ("Learning rate, share of warm-up", format!("{}, {}", settings.learning_rate, settings.warmup_share)),
        ("Weight decay, clipping norm", format!("{}, {}", settings.weight_decay, settings.clip_norm)),
        ("Longest example, seed", format!("{}, {}", settings.max_tokens, settings.seed)),
        ("Trainer", report.trainer.clone()),
    ];
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escaped(value))).collect();
    format!("<h2>The run</h2>\n<table>\n{rows}</table>\n")
}

type Point = (f64, f64);

/// Fewer points where there are too many to see.
fn thinned(points: &[Point]) -> Vec<Point> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |chunk: &[Point]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(size).map(mean).collect()
}

/// Curves over common axes that begin at zero.
fn chart(curves: &[(&str, &str, &Vec<Point>)]) -> String {
    let all = || curves.iter().flat_map(|(_, _, points)| points.iter());
    let (right, top) = all().fold((1.0_f64, 0.0_f64), |(x, y), point| (x.max(point.0), y.max(point.1)));
    let top = if top > 0.0 { top * 1.05 } else { 1.0 };
    let x = |value: f64| MARGIN + value / right * (WIDTH - MARGIN - 8.0);
    let y = |value: f64| (HEIGHT - 24.0) - value / top * (HEIGHT - 32.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    for tick in 0..=4 {
        let (at_x, at_y) = (right * f64::from(tick) / 4.0, top * f64::from(tick) / 4.0);
        let (line, left, end) = (y(at_y), MARGIN, WIDTH - 8.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{end}\" y1=\"{line:.1}\" y2=\"{line:.1}\" stroke=\"#8884\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{:.1}\" y=\"{HEIGHT}\" text-anchor=\"middle\">{:.0}</text>",
            left - 6.0,
            line + 4.0,
            short(at_y),
            x(at_x).min(WIDTH - 24.0),
            at_x
        );
    }
    for (index, (name, color, points)) in curves.iter().enumerate().filter(|(_, curve)| !curve.2.is_empty()) {
        let path: String = points.iter().map(|point| format!("{:.1},{:.1} ", x(point.0), y(point.1))).collect();
        let (label_x, label_y) = (WIDTH - 110.0, 20 + 16 * index);
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>\
             <text x=\"{label_x}\" y=\"{label_y}\" style=\"fill:{color}\">{name}</text>",
            path.trim_end()
        );
        // A line through one point shows nothing.
        for point in points.iter().filter(|_| points.len() < 40) {
            let _ =
                writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>", x(point.0), y(point.1));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn short(value: f64) -> String {
    if value == 0.0 || value >= 0.01 { format!("{value:.2}") } else { format!("{value:.0e}") }
}

/// Text that is no markup. What HTML forbids is written visibly: a control character as its Unicode picture, and one
/// without a picture, or a code that stands for no character, by its number.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' => escaped.push(character),
            '\0'..='\x1f' => escaped.extend(char::from_u32(0x2400 + u32::from(character))),
            '\x7f' => escaped.push('\u{2421}'),
            '\u{80}'..='\u{9f}' | '\u{fdd0}'..='\u{fdef}' => escaped.extend(character.escape_unicode()),
            _ if u32::from(character) & 0xfffe == 0xfffe => escaped.extend(character.escape_unicode()),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::Curves;
    use super::super::report::{Base, Before, Sample};
    use super::super::schedule::Settings;
    use super::*;

    fn report(losses: Vec<f32>, held_out: Vec<(usize, f32)>) -> Report {
        Report {
            trainer: "1.0.0".to_owned(),
            base: Base { name: "a<b".to_owned(), version: "1.0.0".to_owned(), manifest: "sha256:0".to_owned() },
            settings: Settings {
                seed: 0,
                epochs: 1,
                batch: 1,
                max_tokens: 8,
                rank: 1,
                alpha: 1.0,
                learning_rate: 1e-3,
                warmup_share: 0.0,
                weight_decay: 0.0,
                clip_norm: 1.0,
            },
            modules: 7,
            examples: Extent { examples: losses.len(), tokens: 9, learnt: 3, longest: 4 },
            rehearsals: None,
            kept_aside: None,
            held_out_examples: None,
            ended_early: false,
            held_out_loss: None,
            curves: Curves { losses, held_out },
            samples: vec![Sample {
                question: "<script>alert(1)</script>".to_owned(),
                expected: "a & b".to_owned(),
                before: "\"x\"".to_owned(),
                after: "y".to_owned(),
            }],
        }
    }

    #[test]
    fn text_of_the_data_never_becomes_markup() {
        let page = html(&report(vec![2.0, 1.0], vec![(2, 1.5)]));
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.contains("a &amp; b") && page.contains("Adapter of a&lt;b"));
        assert!(
            !page.contains("http://") && !page.contains("https://") && !page.contains("src="),
            "something is loaded"
        );
    }

    #[test]
    fn what_html_forbids_is_written_visibly_and_nothing_said_is_said_so() {
        let mut report = report(vec![1.0], Vec::new());
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        report.samples[0].question = format!("a\0b{all}");
        report.samples[0].before = " ".to_owned();
        let page = html(&report);
        let is_forbidden = |character: char| {
            let code = u32::from(character);
            let is_blank = matches!(character, '\t' | '\n' | '\r' | '\x0c');
            (character.is_control() && !is_blank) || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
        };
        let found: Vec<char> = page.chars().filter(|character| is_forbidden(*character)).collect();
        assert!(found.is_empty(), "{found:?}");
        assert!(page.contains("<td>a\u{2400}b\u{2400}\u{2401}") && page.contains("\\u{85}"));
        assert!(page.contains("<td><i>(nothing)</i></td>"));
    }

    #[test]
    fn what_was_forgotten_is_told_or_how_to_measure_it() {
        let mut report = report(vec![1.0], Vec::new());
        let page = html(&report);
        assert!(page.contains("Nothing was measured of what the base has forgotten") && page.contains("--rehearse"));
        let sample =
            |after: &str| Before { question: "why?".to_owned(), before: "so".to_owned(), after: after.to_owned() };
        report.kept_aside = Some(KeptAside { asked: 9, as_before: 8, samples: vec![sample("no"), sample("so")] });
        let page = html(&report);
        assert!(page.contains("8 of 9 questions") && page.contains("are answered as the base answers them"));
        assert!(page.contains("<tr><td>why?</td><td>so</td><td>no</td></tr>"));
    }

    #[test]
    fn curves_stay_within_their_frame_and_are_thinned() {
        let page = html(&report((0..5000).map(|step| 8.0 / (1.0 + step as f32)).collect(), vec![(5000, 0.5)]));
        let mut curves = 0;
        for points in page.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap_or_default()) {
            curves += 1;
            assert!(points.split(' ').count() <= MAX_POINTS);
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').expect("a point");
                let (x, y): (f64, f64) = (x.parse().expect("a number"), y.parse().expect("a number"));
                assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{point}");
            }
        }
        assert_eq!(curves, 3, "training, held out, learning rate");
    }
}
