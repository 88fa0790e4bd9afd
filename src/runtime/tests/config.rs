//! The configuration's promises: precedence, provenance, and that every mistake is named with where it was made.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use ampoule::config::{
    BundleSource, ConfigError, ConfigErrors, Contract, Environment, FlagValue, Layers, ListenPlan, Origin,
    RuntimeConfig,
};
use ampoule_bundle::statement::ReleaseStatement;
use serde_json::json;

/// A site: some files, some variables, some flags.
#[derive(Default)]
struct Site {
    files: Vec<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    flags: Vec<FlagValue>,
    folder: Option<tempfile::TempDir>,
}

impl Site {
    fn file(mut self, name: &str, text: &str) -> Site {
        let folder = self.folder.get_or_insert_with(|| tempfile::tempdir().unwrap());
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        self.files.push(path);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Site {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &str, text: &str) -> Site {
        self.flags.push(FlagValue { key: key.into(), flag: format!("--{key}"), text: text.into() });
        self
    }

    fn read(&self) -> Result<Layers, ConfigErrors> {
        Layers::read(&self.files, &Environment::new(self.variables.iter().cloned()), &self.flags)
    }

    fn errors(&self) -> Vec<ConfigError> {
        self.read().and_then(|layers| RuntimeConfig::require(&layers.merge())).unwrap_err().0
    }

    /// What is wrong, besides the three files that every real site names.
    fn errors_with_files_named(self) -> Vec<ConfigError> {
        self.flag("bundle", "b").flag("trust_root", "r").flag("keys_file", "k").errors()
    }
}

#[test]
fn a_flag_beats_the_environment_beats_a_later_file_beats_an_earlier_one_beats_built_in() {
    let key = "limits.queued_requests";
    let check = |site: Site, value: u64, origin: &str| {
        let effective = site.read().unwrap().merge();
        let entry = effective.get(key).unwrap();
        assert_eq!(entry.value, json!(value));
        assert!(entry.origin.to_string().contains(origin), "{} does not name {origin}", entry.origin);
    };
    let one_file = || Site::default().file("one.toml", "[limits]\nqueued_requests = 10\n");
    let two_files = || one_file().file("two.toml", "limits.queued_requests = 20");
    let with_variable = || two_files().variable("AMPOULE_LIMITS__QUEUED_REQUESTS", "30");
    check(Site::default(), 64, "built in");
    check(one_file(), 10, "one.toml");
    check(two_files(), 20, "two.toml");
    check(with_variable(), 30, "environment variable AMPOULE_LIMITS__QUEUED_REQUESTS");
    check(with_variable().flag(key, "40"), 40, "flag --limits.queued_requests");
}

#[test]
fn one_table_may_come_from_several_layers() {
    let site = Site::default()
        .file("one.toml", "[limits]\nqueued_requests = 10\nrunning_requests = 2\n")
        .variable("AMPOULE_LIMITS__RUNNING_REQUESTS", "3");
    let effective = site.read().unwrap().merge();
    assert_eq!(effective.get("limits.queued_requests").unwrap().value, json!(10));
    assert_eq!(effective.get("limits.running_requests").unwrap().value, json!(3));
    assert_eq!(effective.get("limits.body_bytes").unwrap().origin, Origin::BuiltIn);
    assert!(effective.get("limits.context_tokens").is_none(), "nobody set it and it has no default");
}

#[test]
fn the_environment_names_a_file_only_where_the_command_line_names_none() {
    let site = Site::default().file("named.toml", "limits.connections = 3");
    let named = site.files[0].to_str().unwrap().to_owned();
    let connections = |files: &[PathBuf]| {
        let environment = Environment::new([("AMPOULE_CONFIG".into(), OsString::from(&named))]);
        let effective = Layers::read(files, &environment, &[]).unwrap().merge();
        effective.get("limits.connections").map(|entry| entry.value.clone())
    };
    assert_eq!(connections(&[]), Some(json!(3)));
    let other = Site::default().file("other.toml", "");
    assert_eq!(connections(&other.files), Some(json!(512)), "the built-in value");
}

#[test]
fn a_file_name_that_is_no_text_is_refused_and_not_left_out() {
    let name = OsString::from_vec(vec![0xff]);
    let environment = Environment::new([("AMPOULE_CONFIG".into(), name)]);
    let errors = Layers::read(&[], &environment, &[]).unwrap_err();
    assert!(errors.to_string().contains("AMPOULE_CONFIG"), "{errors}");
}

#[test]
fn a_path_in_a_file_is_relative_to_that_file_and_elsewhere_to_the_working_folder() {
    let site = Site::default()
        .file("site.toml", "bundle = 'models/m.bundle'\ntrust_root = '/etc/root.json'\n")
        .variable("AMPOULE_KEYS_FILE", "keys.jsonl");
    let config = RuntimeConfig::require(&site.read().unwrap().merge()).unwrap();
    assert_eq!(config.source, BundleSource::File(site.files[0].parent().unwrap().join("models/m.bundle")));
    assert_eq!(config.admission.trust_root, PathBuf::from("/etc/root.json"));
    assert_eq!(config.keys_file, PathBuf::from("keys.jsonl"));
}

#[test]
fn text_is_read_in_the_shape_of_its_option() {
    let site = Site::default().variable("AMPOULE_MODEL_NAME", "7").variable("AMPOULE_LIMITS__CONNECTIONS", "7");
    let effective = site.read().unwrap().merge();
    assert_eq!(effective.get("model_name").unwrap().value, json!("7"));
    assert_eq!(effective.get("limits.connections").unwrap().value, json!(7));
    // Nothing is expanded in a value.
    let site = Site::default().variable("AMPOULE_MODEL_NAME", "${HOME}");
    assert_eq!(site.read().unwrap().merge().get("model_name").unwrap().value, json!("${HOME}"));
}

#[test]
fn every_mistake_is_told_with_what_was_meant() {
    let site = Site::default()
        .file("site.toml", "bundel = 'm'\ncolour = 'red'\n[limits]\nqueued_requests = 'many'\nbody_bytes = 5\n")
        .variable("AMPOULE_LISTN", "x")
        .variable("AMPOULE_ALLOW_PLAIN_HTTP_BEYOND_LOOPBACK", "yes")
        .variable("AMPOULE_LOG__LEVEL", "loud")
        .variable("AMPOULE_LIMITS__RUNNING_REQUESTS", "99999999999999999999999999")
        .variable("AMPOULE_DRAIN_DEADLINE_SECONDS", "-1")
        .flag("limits.connection", "5")
        .flag("limits.token_budget", "2.5");
    let ConfigErrors(errors) = site.read().unwrap_err();
    let text = ConfigErrors(errors.clone()).to_string();
    for expected in [
        "unknown key `bundel` in file",
        "did you mean `bundle`?",
        "unknown key `colour`",
        "`ampoule config show` lists all options",
        "`limits.queued_requests` is string \"many\", but must be a whole number (from file",
        "`limits.body_bytes` is 5, but must be between 1024 and 1073741824",
        "unknown environment variable AMPOULE_LISTN; did you mean `AMPOULE_LISTEN`?",
        "`allow_plain_http_beyond_loopback` is string \"yes\", but must be true or false \
         (from environment variable AMPOULE_ALLOW_PLAIN_HTTP_BEYOND_LOOPBACK)",
        "`log.level` is string \"loud\", but must be one of error, warn, info, debug, trace",
        "`limits.running_requests` is 99999999999999999999999999, but must be between 1 and 1024",
        "`drain_deadline_seconds` is -1, but must be between 0 and 3600",
        "unknown key `limits.connection` in flag --limits.connection; did you mean `limits.connections`?",
        "`limits.token_budget` is string \"2.5\", but must be a whole number",
    ] {
        assert!(text.contains(expected), "missing: {expected}\nin: {text}");
    }
    assert_eq!(errors.len(), 11, "{text}");
}

#[test]
fn files_that_cannot_be_understood_are_named() {
    let errors =
        Site::default().file("a.toml", "bundle = ").file("b.toml", "model_name = 'a'\nmodel_name = 'b'\n").errors();
    assert!(matches!(&errors[..], [ConfigError::NotToml { .. }, ConfigError::NotToml { .. }]), "{errors:?}");
    let mut site = Site::default();
    site.files.push("/nonexistent/ampoule.toml".into());
    assert!(matches!(&site.errors()[..], [ConfigError::UnreadableFile { .. }]));
    let site = Site::default().file("large.toml", &"# a\n".repeat(300_000));
    assert!(matches!(&site.errors()[..], [ConfigError::FileTooLarge { .. }]));
    let site = Site::default().file("list.toml", "model_name = [1]\nlimits = 4\n[log]\nlevel = { a = 1 }\n");
    let errors = site.read().unwrap_err().0;
    assert!(
        matches!(
            &errors[..],
            [ConfigError::UnknownKey { .. }, ConfigError::WrongType { .. }, ConfigError::WrongType { .. }]
        ),
        "{errors:?}"
    );
}

#[test]
fn kubernetes_service_links_are_no_configuration() {
    let site = Site::default()
        .variable("AMPOULE_SERVICE_HOST", "10.0.0.1")
        .variable("AMPOULE_SERVICE_PORT_HTTPS", "8443")
        .variable("AMPOULE_PORT", "tcp://10.0.0.1:8443")
        .variable("AMPOULE_PORT_8443_TCP_ADDR", "10.0.0.1")
        .variable("AMPOULE_METRICS_PORT_9090_TCP", "tcp://10.0.0.1:9090");
    site.read().unwrap();
}

#[test]
fn what_serve_needs_and_has_no_default_is_asked_for_with_a_remedy() {
    let missing: Vec<_> = Site::default()
        .errors()
        .into_iter()
        .map(|error| match error {
            ConfigError::Missing { key, .. } => key,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(missing, ["bundle", "trust_root", "keys_file"]);
}

#[test]
fn plain_http_beyond_loopback_needs_its_named_opt_out() {
    for address in ["0.0.0.0:8080", "192.168.1.4:80", "[::]:8080"] {
        let errors = Site::default().flag("listen", address).errors_with_files_named();
        assert!(matches!(&errors[..], [ConfigError::PlainHttpBeyondLoopback { .. }]), "{address}: {errors:?}");
        let errors = Site::default().flag("metrics_listen", address).errors_with_files_named();
        assert!(matches!(&errors[..], [ConfigError::MetricsBeyondLoopback { .. }]), "{address}: {errors:?}");
    }
    let plan = |site: Site| ListenPlan::of(&site.read().unwrap().merge()).unwrap();
    let all = || Site::default().flag("listen", "0.0.0.0:8080");
    assert!(matches!(plan(Site::default()), ListenPlan::LoopbackPlain(_)));
    assert!(matches!(plan(Site::default().flag("listen", "[::1]:1")), ListenPlan::LoopbackPlain(_)));
    assert!(matches!(plan(all().flag("allow_plain_http_beyond_loopback", "true")), ListenPlan::NamedPlain(_)));
    let tls = all().flag("tls.certificate_file", "c").flag("tls.key_file", "k");
    assert!(matches!(plan(tls), ListenPlan::Tls(..)));
}

#[test]
fn half_of_tls_and_names_instead_of_addresses_are_refused() {
    let errors = Site::default().flag("tls.key_file", "k").errors_with_files_named();
    assert!(matches!(&errors[..], [ConfigError::HalfOfTls { absent: "tls.certificate_file", .. }]), "{errors:?}");
    for wrong in ["localhost:8080", "8080", "127.0.0.1", "127.0.0.1:99999"] {
        let errors = Site::default().flag("listen", wrong).errors_with_files_named();
        assert!(matches!(&errors[..], [ConfigError::NotAnAddress { .. }]), "{wrong}: {errors:?}");
    }
}

#[test]
fn the_digest_is_of_the_values_and_not_of_where_they_came_from() {
    let digest = |site: Site| site.read().unwrap().merge().digest();
    let by_file = digest(Site::default().file("a.toml", "limits.connections = 3"));
    assert_eq!(by_file, digest(Site::default().variable("AMPOULE_LIMITS__CONNECTIONS", "3")));
    assert_ne!(by_file, digest(Site::default().flag("limits.connections", "4")));
}

/// A release statement with these constraints, as a vendor would sign it.
fn release(constraints: serde_json::Value) -> ReleaseStatement {
    let zero = format!("sha256:{}", "0".repeat(64));
    serde_json::from_value(json!({
        "formatVersion": 1, "name": "model", "version": "1.2.3", "counter": 1, "epoch": 1, "channel": "stable",
        "issuedAt": "2026-11-23T00:00:00Z", "expiryPolicy": "refuse-load", "omsRoot": zero, "weights": [],
        "requires": { "runtime": { "min": "0.1.0", "features": [] }, "cpuFeatures": [], "endpoints": [] },
        "constraints": constraints, "trustRootVersion": 1, "revocationMin": 0,
    }))
    .unwrap()
}

fn constraints(max_context_length: u32) -> serde_json::Value {
    json!({
        "maxContextLength": max_context_length, "authentication": "required", "promptLogging": "off", "egress": "none"
    })
}

#[test]
fn a_site_may_tighten_what_the_bundle_constrains_and_never_loosen_it() {
    let contract = Contract::of(&release(constraints(2048)), None).unwrap();
    let effective = contract.apply(&Site::default().read().unwrap()).unwrap();
    let entry = effective.get("limits.context_tokens").unwrap();
    assert_eq!((&entry.value, entry.origin.to_string()), (&json!(2048), "bundle model 1.2.3".to_owned()));

    let tighter = Site::default().variable("AMPOULE_LIMITS__CONTEXT_TOKENS", "1024");
    let effective = contract.apply(&tighter.read().unwrap()).unwrap();
    assert_eq!(effective.get("limits.context_tokens").unwrap().value, json!(1024));

    let looser = Site::default().variable("AMPOULE_LIMITS__CONTEXT_TOKENS", "4096");
    let refusal = contract.apply(&looser.read().unwrap()).unwrap_err().to_string();
    for part in [
        "`limits.context_tokens` is 4096",
        "from environment variable AMPOULE_LIMITS__CONTEXT_TOKENS",
        "the bundle allows at most 2048",
        "`constraints.maxContextLength` in the release statement of model 1.2.3",
    ] {
        assert!(refusal.contains(part), "missing: {part}\nin: {refusal}");
    }
}

#[test]
fn the_settings_schema_of_a_bundle_proposes_and_bounds() {
    let schema = json!({ "type": "object", "properties": {
        "model_name": { "type": "string", "default": "helper" },
        "drain_deadline_seconds": { "enum": [20, 10] },
        "limits": { "properties": { "running_requests": { "type": "integer", "default": 2, "maximum": 4 } } },
    }});
    let contract = Contract::of(&release(constraints(4096)), Some(schema.to_string().as_bytes())).unwrap();
    let effective = contract.apply(&Site::default().read().unwrap()).unwrap();
    let value = |key: &str| effective.get(key).unwrap().value.clone();
    assert_eq!(value("model_name"), json!("helper"));
    assert_eq!(value("limits.running_requests"), json!(2));
    // The built-in 30 is not allowed, and the site said nothing: the bundle's first word holds.
    assert_eq!(value("drain_deadline_seconds"), json!(20));

    let site = Site::default().flag("limits.running_requests", "4").flag("model_name", "mine");
    let effective = contract.apply(&site.read().unwrap()).unwrap();
    assert_eq!(effective.get("limits.running_requests").unwrap().value, json!(4));
    assert_eq!(effective.get("model_name").unwrap().value, json!("mine"));

    let site = Site::default().flag("limits.running_requests", "5").flag("drain_deadline_seconds", "30");
    let errors = contract.apply(&site.read().unwrap()).unwrap_err().0;
    assert_eq!(errors.len(), 2, "{errors:?}");
}

#[test]
fn a_settings_schema_for_another_runtime_is_refused() {
    let apply = |schema: &str| {
        Contract::of(&release(constraints(4096)), Some(schema.as_bytes()))
            .and_then(|contract| contract.apply(&Site::default().read().unwrap()))
            .unwrap_err()
            .0
    };
    let errors = apply(r#"{"properties":{"warp_factor":{"default":9}}}"#);
    assert!(matches!(&errors[..], [ConfigError::UnknownKey { .. }, ..]), "{errors:?}");
    assert!(matches!(&apply("{")[..], [ConfigError::SettingsSchema { .. }]));
    // A bound that nobody would hold is refused, not passed over.
    let errors = apply(r#"{"properties":{"limits":{"properties":{"context_tokens":{"exclusiveMaximum":16}}}}}"#);
    assert!(matches!(&errors[..], [ConfigError::SettingsSchema { .. }]), "{errors:?}");
    let errors = apply("{\"properties\":{\"model_name\":{\"default\":\"a\u{202e}b\"}}}");
    assert!(matches!(&errors[..], [ConfigError::BelongsToSite { .. }]), "{errors:?}");
    let errors = apply(r#"{"properties":{"listen":{"default":"0.0.0.0:80"}}}"#);
    assert!(matches!(&errors[..], [ConfigError::BelongsToSite { .. }]), "{errors:?}");
}
