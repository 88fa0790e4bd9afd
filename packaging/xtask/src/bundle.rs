//! `cargo xtask bundle NAME`: makes the bundle that `bundles/NAME/recipe.toml` describes, from a pinned PyPI package.
//!
//! The package is fetched by the ordinary pip client, which refuses any file but the one whose SHA-256 the recipe names,
//! and it is only unpacked, never installed. The result is sealed by `ampoule-seal` with the repository's test key, so it
//! is for tests and for trying things out.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use toml::Table;

use crate::process;

/// What a recipe says; every field is required.
struct Recipe {
    package: String,
    package_version: String,
    file: String,
    sha256: String,
    model: String,
    name: String,
    version: String,
    counter: i64,
    issued_at: String,
}

/// Downloads, checks, unpacks and seals the model of `bundles/<name>/recipe.toml` into `target/bundles/<name>.bundle`, with
/// an `ampoule-seal` that is built already, if one is named: building it alone compiles most of the workspace once more.
pub(crate) fn run(name: &str, seal: Option<&Path>) -> Result<()> {
    let workspace = process::workspace_root();
    let recipe = Recipe::read(&workspace.join("bundles").join(name).join("recipe.toml"))?;
    let output = workspace.join("target/bundles");
    let work = output.join(name);
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;

    recipe.download(&work)?;
    let wheel = work.join(&recipe.file);
    let unpacked = work.join("unpacked");
    if unpacked.exists() {
        std::fs::remove_dir_all(&unpacked).with_context(|| format!("cannot empty {}", unpacked.display()))?;
    }
    // The standard library's zip reader drops `..` and absolute names, and runs nothing.
    process::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let bundle = output.join(format!("{}.bundle", recipe.name));
    recipe.seal(&workspace, seal, &unpacked.join(&recipe.model), &bundle)?;
    let root = output.join("root.json");
    std::fs::copy(workspace.join("bundles/fixtures/keys/root.json"), &root)
        .with_context(|| format!("cannot write {}", root.display()))?;
    std::fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    Ok(())
}

impl Recipe {
    fn read(path: &Path) -> Result<Recipe> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: is there such a recipe below bundles/?", path.display()))?;
        let table: Table = text.parse().with_context(|| format!("{} is not TOML", path.display()))?;
        let field = |section: &str, key: &str| {
            let value = table.get(section).and_then(|section| section.get(key));
            value.with_context(|| format!("{} lacks [{section}] {key}", path.display()))
        };
        let text = |section: &str, key: &str| -> Result<String> {
            let value = field(section, key)?.as_str();
            Ok(value.with_context(|| format!("{}: [{section}] {key} is not text", path.display()))?.to_owned())
        };
        Ok(Recipe {
            package: text("package", "name")?,
            package_version: text("package", "version")?,
            file: text("package", "file")?,
            sha256: text("package", "sha256")?,
            model: text("package", "model")?,
            name: text("bundle", "name")?,
            version: text("bundle", "version")?,
            counter: field("bundle", "counter")?.as_integer().context("[bundle] counter is not an integer")?,
            issued_at: text("bundle", "issued-at")?,
        })
    }

    /// Lets pip fetch the wheel and check its hash; a wheel that is there already is checked without a network.
    fn download(&self, folder: &Path) -> Result<()> {
        let requirements = folder.join("requirements.txt");
        let line = format!("{}=={} --hash=sha256:{}\n", self.package, self.package_version, self.sha256);
        std::fs::write(&requirements, line).with_context(|| format!("cannot write {}", requirements.display()))?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--require-hashes"]);
        pip.args(["--only-binary", ":all:"]).arg("--dest").arg(folder).arg("--requirement").arg(&requirements);
        if folder.join(&self.file).exists() {
            pip.arg("--no-index").arg("--find-links").arg(folder);
        }
        process::run(&mut pip)
    }

    fn seal(&self, workspace: &Path, seal: Option<&Path>, model: &Path, bundle: &Path) -> Result<()> {
        let keys = workspace.join("bundles/fixtures/keys");
        let mut command = seal.map_or_else(built_for_this, Command::new);
        command.current_dir(workspace);
        command.args(["seal", "--force", "--name", &self.name, "--version", &self.version]);
        command.args(["--counter", &self.counter.to_string(), "--issued-at", &self.issued_at]);
        command.arg("--key").arg(keys.join("test.key")).arg("--password-file").arg(keys.join("test.password"));
        process::run(command.arg("--from").arg(model).arg("--out").arg(bundle))
    }
}

/// `ampoule-seal`, built when it is run.
fn built_for_this() -> Command {
    let mut cargo = process::cargo();
    cargo.args(["run", "--release", "--quiet", "--locked", "--package=ampoule-sealing", "--bin=ampoule-seal", "--"]);
    cargo
}
