//! Checks the manifests under `packaging/kubernetes`: the runtime understands their configuration, kubectl builds them as `kubectl apply -k` would, and a script
//! requires of the result what the appliance promises (no root, nothing writable, no capability, the right probes).

use std::path::Path;
use std::process::Command;

use crate::{clients, process};

/// Builds the manifests and checks the result; needs kubectl and the clients' venv, which holds the YAML library.
pub(crate) fn run(binary: &Path) -> anyhow::Result<()> {
    // Whether the options exist and have values that can be; the files are the cluster's.
    let show = ["config", "show", "--config", "packaging/kubernetes/ampoule.toml"];
    process::output(Command::new(binary).args(show))?;
    let built = process::output(Command::new("kubectl").args(["kustomize", "packaging/kubernetes"]))?;
    std::fs::create_dir_all("target/kubernetes")?;
    let path = Path::new("target/kubernetes/built.yaml");
    std::fs::write(path, built)?;
    let python = clients::venv()?.join("bin/python");
    process::run(Command::new(python).arg("packaging/kubernetes/check.py").arg(path))
}
