//! Liveness and readiness: two probes for everybody that say nothing more, and their long forms for holders of a key.

use anyhow::ensure;

use crate::catalogue::Case;
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-HLT-01", "/livez and /readyz answer anybody 200 with an empty body", probes_are_public_and_empty),
    Case::served("AMP-HLT-02", "/v1/health/live and /ready say to a key that all is well", health_says_why),
];

fn probes_are_public_and_empty(target: &Target) -> anyhow::Result<()> {
    for path in ["/livez", "/readyz"] {
        for method in ["GET", "HEAD"] {
            let reply = target.send(method, path, &[], None)?;
            ensure!(reply.status == 200, "{method} {path} answers {}", reply.status);
            ensure!(reply.body.is_empty(), "{method} {path} tells a stranger {}", reply.text());
        }
    }
    Ok(())
}

fn health_says_why(target: &Target) -> anyhow::Result<()> {
    for path in ["/v1/health/live", "/v1/health/ready"] {
        let body = target.get(path)?.json(200)?;
        ensure!(body["object"] == "health.response" && body["status"] == "ok", "{path} is {body}");
        ensure!(body["message"].is_string(), "{path} has no message: {body}");
    }
    Ok(())
}
