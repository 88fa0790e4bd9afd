//! Binaries that lie, so that the cases about an installation are known to be able to fail: shell scripts in front of the
//! real appliance, each with one defect.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{ampoule, fixture, harness, judge, sign_release, with_result};

/// A lie: what it is, the script that tells it, and the cases that must catch it.  `$REAL` is the appliance.
struct Lie(&'static str, &'static str, &'static [&'static str]);

const LIES: &[Lie] = &[
    Lie(
        "verify always says yes",
        r#"[ "$1" = verify ] && { echo '{"verified":true}'; exit 0; }; exec "$REAL" "$@""#,
        &[
            "AMP-TAM-01",
            "AMP-TAM-02",
            "AMP-TAM-03",
            "AMP-TAM-04",
            "AMP-TAM-05",
            "AMP-TAM-06",
            "AMP-TAM-07",
            "AMP-TAM-08",
            "AMP-META-03",
            "AMP-EXIT-02",
        ],
    ),
    Lie(
        "every failure ends with 1",
        r#""$REAL" "$@" || exit 1"#,
        &[
            "AMP-CFG-01",
            "AMP-CFG-02",
            "AMP-CFG-03",
            "AMP-CFG-04",
            "AMP-CFG-05",
            "AMP-CFG-06",
            "AMP-CFG-07",
            "AMP-CFG-08",
            "AMP-EXIT-04",
            "AMP-TLS-04",
        ],
    ),
    Lie(
        "every release is what was signed",
        r#"[ "$1" = verify-self ] && { echo '{"verified":true,"release":"1.2.3"}'; exit 0; }; exec "$REAL" "$@""#,
        &["AMP-INS-01", "AMP-INS-02"],
    ),
    Lie(
        "nothing is remembered",
        r#"kept=()
           while [ $# -gt 0 ]; do
               case "$1" in --state) shift 2;; *) kept+=("$1"); shift;; esac
           done
           [ "${kept[0]}" = state ] && { echo '{"counters":[],"records":[]}'; exit 0; }
           [ "${kept[0]}" = admit ] && { echo '{"admitted":true}'; exit 0; }
           exec "$REAL" "${kept[@]}""#,
        &["AMP-STA-01", "AMP-STA-02", "AMP-STA-03", "AMP-STA-04"],
    ),
    Lie(
        "whatever is imported is kept, and the first bundle ever kept is served",
        r#"bundle=$2; store=; flags=()
           [ "$1" = serve ] || [ "$1" = import ] || [ "$1" = export ] || exec "$REAL" "$@"
           for argument in "$@"; do
               [ "$before" = --store ] && store=$argument; [ "$before" = --out ] && out=$argument; before=$argument
           done
           [ -n "$store" ] || exec "$REAL" "$@"
           case "$1" in
               import) "$REAL" "$@" || { cp "$bundle" "$store/kept"; exit 0; }; cp -n "$bundle" "$store.first"; exit 0;;
               export) "$REAL" "$@" && echo >> "$out"; exit;;
           esac
           while [ $# -gt 0 ]; do
               case "$1" in --store) flags+=(--bundle "$2.first"); shift 2;; *) flags+=("$1"); shift;; esac
           done
           exec "$REAL" "${flags[@]}""#,
        &["AMP-STO-01", "AMP-STO-02", "AMP-STO-03", "AMP-STO-04"],
    ),
    Lie(
        "the configuration is never looked at",
        r#"[ "$1" = config ] && { echo '{}'; exit 0; }; exec "$REAL" "$@""#,
        &["AMP-CFG-02", "AMP-CFG-09", "AMP-CFG-10", "AMP-META-03"],
    ),
    Lie(
        "version and health say what one wants to hear",
        r#"case "$1" in version) echo '{"version":"new"}'; exit 0;; health) exit 0;; esac; exec "$REAL" "$@""#,
        &["AMP-EXIT-01", "AMP-EXIT-03"],
    ),
    Lie(
        "a stop is a kill",
        r#"[ "$1" = serve ] || exec "$REAL" "$@"
           "$REAL" "$@" & child=$!
           (while kill -0 $$ 2>/dev/null; do sleep 0.1; done; kill -KILL $child) 2>/dev/null &
           trap 'kill -KILL $child; wait $child; exit 137' TERM INT
           wait $child"#,
        &["AMP-EXIT-05", "AMP-TLS-01", "AMP-DRN-01"],
    ),
    Lie(
        "nobody is waited for, and overload is hidden",
        r#"[ "$1" = serve ] || exec "$REAL" "$@"
           exec "$REAL" "$@" --set drain_deadline_seconds=0 --set readiness_grace_seconds=0 --set limits.queued_requests=99"#,
        &["AMP-DRN-01", "AMP-DRN-02", "AMP-LOAD-01"],
    ),
    Lie(
        "the drain has no deadline",
        r#"[ "$1" = serve ] || exec "$REAL" "$@"; exec "$REAL" "$@" --set drain_deadline_seconds=120"#,
        &["AMP-DRN-03"],
    ),
    Lie(
        "keys are readable by all and never taken away",
        r#"[ "$1 $2" = 'keys revoke' ] && exit 0
           [ "$1 $2" = 'keys add' ] || exec "$REAL" "$@"
           "$REAL" "$@" && chmod 644 "$5""#,
        &["AMP-AUTH-04", "AMP-AUTH-05"],
    ),
    Lie(
        "the log says what was said",
        r#"[ "$1" = serve ] && echo 'canary-5e1f' >&2; exec "$REAL" "$@""#,
        &["AMP-LOG-01", "AMP-LOG-02"],
    ),
    Lie(
        "there are no metrics and no TLS",
        r#"kept=()
           while [ $# -gt 0 ]; do
               case "$1" in --metrics-listen|--tls-*) shift 2;; *) kept+=("$1"); shift;; esac
           done
           exec "$REAL" "${kept[@]}""#,
        &["AMP-MTR-02", "AMP-MTR-03", "AMP-MTR-04", "AMP-TLS-01", "AMP-TLS-02", "AMP-TLS-03", "AMP-TLS-05"],
    ),
    Lie(
        "everybody may administer, and nobody is refused",
        r#"case "$1 $2" in 'adapters list') echo '{"object":"list","limit":1,"data":["x"]}'; exit 0;; 'adapters '*) exit 0;; esac
           kept=(); socket=
           while [ $# -gt 0 ]; do
               case "$1" in --admin-socket) socket=$2; shift 2;; *) kept+=("$1"); shift;; esac
           done
           [ -n "$socket" ] && touch "$socket"
           exec "$REAL" "${kept[@]}""#,
        &["AMP-ADM-01", "AMP-ADM-02", "AMP-ADM-03", "AMP-ADM-04", "AMP-ADM-05"],
    ),
    Lie(
        "every second start serves another model",
        r#"[ "$1" = serve ] || exec "$REAL" "$@"
           if [ -e "$0.started" ]; then
               rm "$0.started"; shift; exec "$REAL" serve "$@" --bundle "${3%generator.bundle}encoder.bundle"
           fi
           touch "$0.started"; exec "$REAL" "$@""#,
        &["AMP-DET-04"],
    ),
    Lie(
        "somebody is called while the appliance serves",
        r#"[ "$1" = serve ] || exec "$REAL" "$@"
           (while kill -0 $$ 2>/dev/null; do sleep 0.1; (exec 3<>/dev/tcp/127.0.0.1/9) 2>/dev/null; done) &
           exec "$REAL" "$@""#,
        &["AMP-EGR-01"],
    ),
    Lie(
        "programs are started while the appliance serves, beside one that is in no sandbox",
        r#"[ "$1" = serve ] || exec "$REAL" "$@"
           "$REAL" "$@" --set sandbox.required=false & child=$!
           (while kill -0 $$ 2>/dev/null; do sleep 0.1; done; kill -KILL $child) 2>/dev/null &
           trap 'kill -TERM $child; wait $child; exit $?' TERM INT
           while kill -0 $child 2>/dev/null; do sleep 0.1; done
           wait $child"#,
        &["AMP-SBX-01", "AMP-SBX-02", "AMP-SBX-03"],
    ),
];

/// What no script can lie about: that a place is not given back would need another engine.
const UNPROVEN: [&str; 1] = ["AMP-LOAD-02"];

#[test]
fn each_lie_is_caught_by_the_cases_that_are_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let liar = |number: usize| folder.path().join(format!("bin/liar-{number}"));
    fs::create_dir(folder.path().join("bin")).unwrap();
    let real = ampoule().display().to_string();
    for (number, Lie(_, script, _)) in LIES.iter().enumerate() {
        fs::write(liar(number), format!("#!/bin/bash\nREAL='{real}'\n{script}\n")).unwrap();
        fs::set_permissions(liar(number), fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Liars lie in a release, so that what is told about a release can be a lie.
    sign_release(folder.path());
    for (number, Lie(what, _, caught_by)) in LIES.iter().enumerate() {
        let binary = liar(number);
        let mut command = harness(&["run", "--profile", "full", "--json"]);
        command.arg("--binary").arg(binary).arg("--bundle").arg(fixture("generator.bundle"));
        command.arg("--trust-root").arg(fixture("root.json"));
        command.args(caught_by.iter().flat_map(|id| ["--case", id]));
        let (code, report) = judge(command);
        let skipped = with_result(&report, "skipped");
        if skipped == ["AMP-EGR-01"] || skipped == ["AMP-SBX-01"] {
            println!("skipped: a lie about {} (strace is missing or may not watch)", skipped[0]);
            continue;
        }
        assert_eq!(with_result(&report, "failed").len(), caught_by.len(), "{what}: {report:#}");
        assert_eq!(code, Some(1), "{what}");
    }
}

#[test]
fn every_installed_case_is_lied_to() {
    let list = |profile: &str| {
        let (_, list) = judge(harness(&["run", "--profile", profile, "--list", "--json"]));
        let cases = list["cases"].as_array().unwrap().clone();
        cases.iter().map(|case| case["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (served, all) = (list("smoke"), list("full"));
    let is_proven =
        |id: &str| UNPROVEN.contains(&id) || LIES.iter().any(|Lie(_, _, caught_by)| caught_by.contains(&id));
    let unproven: Vec<_> = all.iter().filter(|id| !served.contains(id) && !is_proven(id)).collect();
    assert!(unproven.is_empty(), "no lie shows that these can fail: {unproven:?}");
}

#[test]
fn a_binary_that_cannot_serve_is_no_judgement() {
    let mut command = harness(&["run", "--profile", "full", "--binary", "/bin/true"]);
    command.arg("--bundle").arg(fixture("generator.bundle")).arg("--trust-root").arg(fixture("root.json"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
}
