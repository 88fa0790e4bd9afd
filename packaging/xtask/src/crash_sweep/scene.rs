//! The commands that are swept, each with the store that it begins from and the two stores that it may leave.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process;

/// One command on one store.
pub(crate) struct Scene {
    /// What it is called in the table.
    pub(crate) name: &'static str,
    /// Whether it starts a process of its own.
    pub(crate) has_a_child: bool,
    /// Whether it does the same again when it is done.
    pub(crate) is_repeatable: bool,
    pub(crate) old: Vec<String>,
    pub(crate) new: Vec<String>,
    binary: PathBuf,
    arguments: Vec<String>,
    /// The store that it begins from; where it begins from none, nothing is there.
    template: PathBuf,
    /// Where each point's copy lies.
    scratch: PathBuf,
}

impl Scene {
    /// Makes the stores and tries each command once without a fault.
    pub(crate) fn all(binary: &Path, folder: &Path) -> anyhow::Result<Vec<Scene>> {
        let fixtures = process::workspace_root().join("bundles/fixtures/serve");
        let path = |name: &str| fixtures.join(name).display().to_string();
        let root = path("root.json");
        let import = |name: &str| vec!["import".to_owned(), path(name), "--trust-root".to_owned(), root.clone()];
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (first, second) = (import("generator.bundle"), import("generator-next.bundle"));
        let (start, switch) = (words("activate fixture-generator@1.0.0"), words("activate fixture-generator@1.1.0"));
        let other = import("encoder.bundle");

        // Name, what made the store, the command, and whether it may be repeated.
        let plans = [
            ("import into nothing", vec![], first.clone(), true),
            ("import", vec![&first, &start], second.clone(), true),
            ("activate", vec![&first, &second, &start], switch.clone(), true),
            ("rollback", vec![&first, &second, &start, &switch], words("rollback"), false),
            ("prune", vec![&first, &start, &second, &other], words("prune --keep 0"), true),
        ];
        let mut scenes = Vec::new();
        for (number, (name, steps, arguments, is_repeatable)) in plans.into_iter().enumerate() {
            let mut scene = Scene {
                name,
                has_a_child: name == "activate",
                is_repeatable,
                old: Vec::new(),
                new: Vec::new(),
                binary: binary.to_owned(),
                arguments,
                template: folder.join(format!("template-{number}")),
                scratch: folder.join("scratch"),
            };
            for step in steps {
                process::output(&mut scene.ampoule(step, &scene.template))?;
            }
            scene.reset()?;
            scene.old = scene.standings()?;
            process::output(&mut scene.command())?;
            scene.new = scene.standings()?;
            if scene.old == scene.new {
                bail!("{name} changes nothing: {:?}", scene.old);
            }
            scenes.push(scene);
        }
        Ok(scenes)
    }

    /// Puts a fresh copy of the store where the next point works.
    pub(crate) fn reset(&self) -> anyhow::Result<()> {
        if self.scratch.exists() {
            fs::remove_dir_all(&self.scratch)?;
        }
        if self.template.exists() {
            process::run(Command::new("cp").arg("-a").arg(&self.template).arg(&self.scratch))?;
        }
        Ok(())
    }

    /// The command on the copy.
    pub(crate) fn command(&self) -> Command {
        self.ampoule(&self.arguments, &self.scratch)
    }

    /// The command on the copy, under strace.
    pub(crate) fn traced(&self, options: &[&str]) -> Command {
        let command = self.command();
        let mut traced = Command::new("strace");
        // As `ampoule` above: a variable that names another store or root has no part in this.
        traced.env_remove("AMPOULE_STORE").env_remove("AMPOULE_TRUST_ROOT");
        traced.args(options).arg("--").arg(command.get_program()).args(command.get_args());
        traced
    }

    /// How often each system call occurs in one run: in the process that makes it most often.
    pub(crate) fn count_calls(&self, follow: bool) -> anyhow::Result<BTreeMap<String, u32>> {
        self.reset()?;
        let log = self.scratch.with_extension("trace");
        let path = log.display().to_string();
        let options: &[&str] = if follow && self.has_a_child { &["-f", "-o", &path] } else { &["-o", &path] };
        process::output(&mut self.traced(options))?;
        let mut counts: HashMap<(String, String), u32> = HashMap::new();
        for line in fs::read_to_string(&log)?.lines() {
            let (process, call) = match line.split_once(' ') {
                Some((process, rest)) if process.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (process, rest.trim_start())
                }
                _ => ("", line),
            };
            let Some((name, _)) = call.split_once('(') else { continue };
            if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
                *counts.entry((process.to_owned(), name.to_owned())).or_default() += 1;
            }
        }
        let mut most = BTreeMap::new();
        for ((_, name), count) in counts {
            let entry: &mut u32 = most.entry(name).or_default();
            *entry = count.max(*entry);
        }
        // Before the first call of all there is no process to kill, and the last one does not return.
        most.remove("execve");
        Ok(most)
    }

    /// The bundles of the copy with their standings, which is what a store is to its user; none where there is no store.
    pub(crate) fn standings(&self) -> anyhow::Result<Vec<String>> {
        let list = self.ampoule(&["list".to_owned(), "--json".to_owned()], &self.scratch).output()?;
        let told = String::from_utf8_lossy(&list.stderr);
        if list.status.code() == Some(13) && told.contains("there is no store") {
            return Ok(Vec::new());
        }
        if !list.status.success() {
            bail!("list ended with {}: {told}", list.status);
        }
        let listed: serde_json::Value = serde_json::from_slice(&list.stdout)?;
        let bundles = listed["bundles"].as_array().context("list has no bundles")?;
        let mut standings: Vec<String> = bundles
            .iter()
            .map(|bundle| format!("{} {} {}", bundle["name"], bundle["version"], bundle["standing"]))
            .collect();
        standings.sort();
        if bundles.iter().any(|bundle| bundle["is_complete"] != true) {
            bail!("a listed bundle is incomplete: {listed}");
        }
        Ok(standings)
    }

    /// Verifies every byte of the active bundle, by writing it out.
    pub(crate) fn export_active(&self) -> anyhow::Result<()> {
        let standings = self.standings()?;
        let Some(active) = standings.iter().find(|bundle| bundle.ends_with("\"active\"")) else { return Ok(()) };
        let named: Vec<&str> = active.split('"').collect();
        let (name, version) = (named[1], named[3]);
        let out = self.scratch.with_extension("bundle");
        if out.exists() {
            fs::remove_file(&out)?;
        }
        let arguments =
            ["export".to_owned(), format!("{name}@{version}"), "--out".to_owned(), out.display().to_string()];
        process::output(&mut self.ampoule(&arguments, &self.scratch))?;
        let delivered = if version == "1.0.0" { "generator.bundle" } else { "generator-next.bundle" };
        let delivered = process::workspace_root().join("bundles/fixtures/serve").join(delivered);
        if fs::read(&out)? != fs::read(delivered)? {
            bail!("the active bundle is not the one that was delivered");
        }
        Ok(())
    }

    fn ampoule(&self, arguments: &[String], store: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear().args(arguments).arg("--store").arg(store);
        command
    }
}
