//! Sealed adapters of the served fixture, made with the vendor's tool: a root that knows a site's key, and small LoRAs
//! whose numbers are a function of their seed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use super::{Site, workspace};

/// The width of the fixture's model, and the rank of our adapters.
const WIDTH: usize = 32;
const RANK: usize = 4;

/// What PEFT would call the two matrices of one projection.
pub const MODULE: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// A matrix: its name, its shape, its numbers.
pub type Matrix = (String, [usize; 2], Vec<f32>);

/// A site whose root takes the bundles of a vendor and the adapters of a key of its own.
pub struct Workshop {
    pub site: Site,
}

impl Workshop {
    pub fn new() -> Workshop {
        let mut site = Site::new();
        let (keys, root) = (workspace().join("bundles/fixtures/keys"), site.folder.path().join("with-site.json"));
        let (vendor, own) = (keys.join("test.pub"), keys.join("other.pub"));
        let named = [("--root-key", &vendor), ("--release-key", &vendor), ("--site-key", &own), ("--out", &root)];
        let mut init = vendors_tool();
        init.args(["trust", "init"]).args(named.iter().flat_map(|(flag, path)| [flag.as_ref(), path.as_os_str()]));
        succeeds(init);
        site.root = root.display().to_string();
        Workshop { site }
    }

    /// A path in the site's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.site.folder.path().join(name)
    }

    /// The path of an admin socket, in a folder of its own.
    pub fn socket(&self) -> String {
        let folder = self.path("run");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        folder.join("admin.sock").display().to_string()
    }

    /// A good adapter of the served bundle.
    pub fn adapter(&self, file: &str, name: &str, seed: u32) -> String {
        self.seal(file, name, &self.site.bundle, &matrices(seed))
    }

    /// Seals any matrices as an adapter of any base, with the site's key, and returns the bundle's path.
    pub fn seal(&self, file: &str, name: &str, base: &str, matrices: &[Matrix]) -> String {
        let folder = self.path(&format!("{file}-peft"));
        fs::create_dir(&folder).unwrap();
        let config = json!({ "peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["q_proj"] });
        fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
        fs::write(folder.join("adapter_model.safetensors"), safetensors(matrices)).unwrap();
        let (keys, bundle) = (workspace().join("bundles/fixtures/keys"), self.path(&format!("{file}.bundle")));
        let mut command = vendors_tool();
        command.arg("seal").arg("--from").arg(&folder).args(["--adapter-of", base, "--name", name]);
        command.args(["--version", "1.0.0", "--counter", "1", "--key"]).arg(keys.join("other.key"));
        command.arg("--password-file").arg(keys.join("test.password")).arg("--out").arg(&bundle);
        succeeds(command);
        bundle.display().to_string()
    }
}

/// Both matrices of one projection, large enough that answers change.
pub fn matrices(seed: u32) -> Vec<Matrix> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut numbers = |count: usize| -> Vec<f32> {
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    };
    let down = numbers(RANK * WIDTH);
    let up = numbers(WIDTH * RANK);
    vec![
        (format!("{MODULE}.lora_A.weight"), [RANK, WIDTH], down),
        (format!("{MODULE}.lora_B.weight"), [WIDTH, RANK], up),
    ]
}

fn safetensors(matrices: &[Matrix]) -> Vec<u8> {
    let (mut table, mut data) = (Map::new(), Vec::new());
    for (name, shape, numbers) in matrices {
        let begin = data.len();
        data.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        table.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] }));
    }
    let header = Value::Object(table).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// The vendor's tool.  Cargo tells no crate where the binary of another one is; all are built into one folder.
pub fn vendors_tool() -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_ampoule")).with_file_name("ampoule-seal");
    assert!(
        binary.is_file(),
        "{} is missing: build it with `cargo build --release --locked --workspace`, or test the whole workspace",
        binary.display()
    );
    Command::new(binary)
}

fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
