//! Logging: one JSON object per line on standard error, or text for a person.  Nothing here ever sees a prompt: the
//! request path logs lengths and counts, and the panic hook leaves out the panic's message, because a message such as
//! "byte index 3 is not a character boundary of …" quotes the text it stumbled over.

use std::panic;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogLevel};

/// Starts logging for the life of the process.  A second call changes nothing: the first one holds.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // Only our own crates follow the configured level: what a library writes at debug was not read with prompts in
    // mind.
    let filter = EnvFilter::new(format!(
        "warn,ampoule={level},ampoule_bundle={level},ampoule_inference={level},h2=error,hyper=error,rustls=error"
    ));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        LogFormat::Text => builder.with_ansi(false).with_target(false).try_init(),
    };
    if installed.is_ok() {
        report_panics();
    }
}

/// A panic is a defect of ours: it is logged with its place and without its message.
pub fn report_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, thread, "a defect of ampoule: a thread panicked");
        } else {
            eprintln!("ampoule: a defect of ampoule: thread {thread} panicked at {place}");
        }
    }));
}
