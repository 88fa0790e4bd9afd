//! The outside tools that some tests need.  A missing one is named, with what is skipped for it, and never silently.

use std::process::Command;

use crate::process;

/// A program that is not part of the workspace, and what it is for.
pub(crate) struct Tool {
    /// The name of the program.
    pub(crate) program: &'static str,
    /// The Debian package that holds it; `None` for one that cargo installs.
    package: Option<&'static str>,
    /// What is skipped without it.
    pub(crate) used_for: &'static str,
}

/// What cargo installs.  Pinned, because a newer release may judge the same tree differently.
const BY_CARGO: &[(&str, &str)] = &[("cargo-deny", "0.20.2"), ("cargo-fuzz", "0.13.2")];

/// Every outside tool.  `python3` makes the venv of the client tests.
pub(crate) const TOOLS: &[Tool] = &[
    Tool { program: "python3", package: Some("python3-venv"), used_for: "the client tests and the recipes of bundles" },
    Tool { program: "skopeo", package: Some("skopeo"), used_for: "carrying a bundle with other people's tools" },
    Tool {
        program: "docker-registry",
        package: Some("docker-registry"),
        used_for: "carrying a bundle through a registry",
    },
    Tool { program: "umoci", package: Some("umoci"), used_for: "unpacking the container image" },
    Tool { program: "runc", package: Some("runc"), used_for: "starting the container image" },
    Tool { program: "kubectl", package: Some("kubernetes-client"), used_for: "building the Kubernetes manifests" },
    Tool { program: "systemd-analyze", package: Some("systemd"), used_for: "checking the systemd unit" },
    Tool { program: "nm", package: Some("binutils"), used_for: "the symbols of the shipped binary" },
    Tool { program: "ldd", package: Some("libc-bin"), used_for: "the proof that the shipped binary is static" },
    Tool { program: "openssl", package: Some("openssl"), used_for: "the air-gapped tarball and its installation" },
    Tool { program: "curl", package: Some("curl"), used_for: "the commands of INSTALL.md" },
    Tool { program: "ip", package: Some("iproute2"), used_for: "networks of their own for the tests of the tarball" },
    Tool { program: "age", package: Some("age"), used_for: "opening encrypted layers with other people's age" },
    Tool {
        program: "strace",
        package: Some("strace"),
        used_for: "the proof that the appliance connects nowhere, and the crash sweep",
    },
    Tool { program: "tar", package: Some("tar"), used_for: "listing a bundle with GNU tar" },
    Tool {
        program: "promtool",
        package: Some("prometheus"),
        used_for: "the alert rules, the dashboard and the metrics page",
    },
    Tool { program: "chromium", package: Some("chromium"), used_for: "the status page in a browser" },
    Tool { program: "node", package: Some("nodejs"), used_for: "Sigstore's own client on a bundle's attestations" },
    Tool { program: "npm", package: Some("npm"), used_for: "the packages of that client" },
    Tool { program: "cargo-deny", package: None, used_for: "licences, sources and bans of the dependencies" },
    Tool { program: "cargo-fuzz", package: None, used_for: "fuzzing the parsers" },
];

/// The tools that this machine lacks.
pub(crate) fn missing() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| !process::is_installed(tool.program)).collect()
}

/// Installs what is missing; needs the right to install Debian packages.
pub(crate) fn install() -> anyhow::Result<()> {
    let missing = missing();
    let packages: Vec<&str> = missing.iter().filter_map(|tool| tool.package).collect();
    if !packages.is_empty() {
        process::run(Command::new("apt-get").args(["update", "--quiet"]))?;
        let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
        process::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(install).args(packages))?;
    }
    for (program, version) in BY_CARGO.iter().filter(|(program, _)| missing.iter().any(|tool| tool.program == *program))
    {
        // Only its verdict counts, not its speed: without optimisation it is built in a third of the time.
        let install = ["install", "--locked", "--debug", "--version", version, program];
        process::run(process::cargo().args(install).current_dir(std::env::temp_dir()))?;
    }
    println!(
        "all outside tools are installed: {}",
        TOOLS.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", ")
    );
    Ok(())
}
