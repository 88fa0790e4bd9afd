//! What verification costs: the load of a bundle beside a loop that reads the same bytes into fresh memory and hashes them,
//! and, encrypted, decrypts them and hashes them once more. `cargo xtask load` runs it for `conformance/benchmarks`; it
//! prints one row a round to standard output, and the medians to standard error.
//!
//! ```text
//! load FOLDER [ROUNDS] [MEBIBYTES]
//! ```
//!
//! The sides take turns in one process, on as many threads, over files in the page cache; which of a pair comes first
//! changes from round to round. Before each pair the reference's loop runs once untimed: what the machine does for
//! whoever touches files and memory first after a while would otherwise be on one side's account. Each side keeps all that
//! it has read until its turn is over. The peak of our side's memory is what the process grew by beyond the weights; more
//! than the limit is a failure. Beside the time on the wall stand those of the processors in the program and
//! in the system: the first is what the work itself takes, the second is mostly the making of memory, which a virtual
//! machine may have to ask its host for. Where it sometimes has, the lower quartile is of the turns in which it had not.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ampoule_bundle::age::Recipient;
use ampoule_bundle::statement::{Endpoint, ExpiryPolicy};
use ampoule_bundle::{
    AdmittedBundle, Counter, Epoch, Hasher, HighWaterMarks, HostFacts, RuntimePolicy, SealedBundle, TensorBytes,
    TensorEntry, TensorSink, Timestamp,
};
use ampoule_sealing::contract::Contract;
use ampoule_sealing::keys::{Curve, SigningKey};
use ampoule_sealing::seal::{SealRequest, seal};
use ampoule_sealing::trust;
use memmap2::{Advice, MmapMut};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const LAYERS: usize = 4;
const STRIDE: usize = 256 << 10;
const CHUNK: usize = 64 << 10;
const SEALED_CHUNK: usize = CHUNK + 16;
const SECRET: [u8; 32] = [11; 32];
/// What loading may take beyond the weights.
const PEAK_LIMIT_MIB: u64 = 64;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Keeps what it is given.
#[derive(Default)]
struct Keep(Mutex<Vec<TensorBytes>>);

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl TensorSink for Keep {
    type Output = Vec<TensorBytes>;
    type Error = Never;
    type Memory = TensorBytes;

    fn open(&self, _: TensorEntry<'_>, length: usize) -> Result<TensorBytes, Never> {
        Ok(TensorBytes::new(length))
    }

    fn place(&self, _: TensorEntry<'_>, memory: TensorBytes) -> Result<(), Never> {
        self.0.lock().expect("nobody panics").push(memory);
        Ok(())
    }

    fn finish(self) -> Result<Vec<TensorBytes>, Never> {
        Ok(self.0.into_inner().expect("nobody panics"))
    }
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("name a folder for some files of the weights' size")?);
    let rounds: usize = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let layer_bytes = arguments.next().map_or(Ok(1024), |text| text.parse::<usize>())? * (1 << 20) / LAYERS;
    let files = Files::make(&folder, layer_bytes)?;
    let sides = ["reference", "plain", "reference_encrypted", "encrypted"];
    println!(
        "round,{},plain_peak_mib,encrypted_peak_mib",
        sides.map(|side| format!("{side}_wall,{side}_user,{side}_system")).join(",")
    );
    let mut rows = Vec::new();
    for round in 0..=rounds {
        let first = if round % 2 == 0 { First::Reference } else { First::Ours };
        let ours = |path: &Path| load(path, layer_bytes);
        let theirs = |paths: &[PathBuf], key: Option<&LessSafeKey>| timed(|| reference(paths, layer_bytes, key));
        let key = chunk_key();
        reference(&files.raw, layer_bytes, None)?;
        let (bare, (plain, plain_peak)) = first.of(|| theirs(&files.raw, None), || ours(&files.plain))?;
        reference(&files.sealed, layer_bytes, Some(&key))?;
        let (sealed, (encrypted, encrypted_peak)) =
            first.of(|| theirs(&files.sealed, Some(&key)), || ours(&files.encrypted))?;
        // The first round warms the cache.
        if round > 0 {
            let times = [bare, plain, sealed, encrypted]
                .map(|Taken { wall, user, system }| format!("{wall:.3},{user:.2},{system:.2}"))
                .join(",");
            println!("{round},{times},{plain_peak},{encrypted_peak}");
            rows.push(([bare, plain, sealed, encrypted], [plain_peak, encrypted_peak]));
        }
    }
    let of = |side: usize, quantile: usize, part: fn(&Taken) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(|(times, _)| part(&times[side])).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() * quantile / 4).copied().unwrap_or(f64::NAN)
    };
    eprintln!(
        "| side | wall s, median | lower quartile | program s | system s | median to the reference's | quartile | program |"
    );
    eprintln!("|---|---|---|---|---|---|---|---|");
    for (side, name) in sides.iter().enumerate() {
        let columns = |side: usize| {
            let wall = |taken: &Taken| taken.wall;
            [of(side, 2, wall), of(side, 1, wall), of(side, 2, |taken| taken.user), of(side, 2, |taken| taken.system)]
        };
        let (ours, theirs) = (columns(side), columns(side / 2 * 2));
        let [median, quartile, program, system] = ours;
        let [to_median, to_quartile, to_program] = [0, 1, 2].map(|column| ours[column] / theirs[column]);
        eprintln!(
            "| {name} | {median:.3} | {quartile:.3} | {program:.2} | {system:.2} | {to_median:.3} | {to_quartile:.3} | {to_program:.3} |"
        );
    }
    let peak = |side: usize| rows.iter().map(|(_, peaks)| peaks[side]).max().unwrap_or(0);
    let [plain, encrypted] = [peak(0), peak(1)];
    eprintln!("\nLargest peak beyond the weights: {plain} MiB plain, {encrypted} MiB encrypted.");
    if plain.max(encrypted) > PEAK_LIMIT_MIB {
        return Err(format!("loading takes more than {PEAK_LIMIT_MIB} MiB beyond the weights").into());
    }
    Ok(())
}

/// Which side of a pair begins.
#[derive(Clone, Copy)]
enum First {
    Reference,
    Ours,
}

impl First {
    fn of<A, B>(self, reference: impl FnOnce() -> Outcome<A>, ours: impl FnOnce() -> Outcome<B>) -> Outcome<(A, B)> {
        match self {
            First::Reference => {
                let reference = reference()?;
                Ok((reference, ours()?))
            }
            First::Ours => {
                let ours = ours()?;
                Ok((reference()?, ours))
            }
        }
    }
}

/// The files of one comparison.
struct Files {
    raw: Vec<PathBuf>,
    sealed: Vec<PathBuf>,
    plain: PathBuf,
    encrypted: PathBuf,
}

impl Files {
    fn make(folder: &Path, layer_bytes: usize) -> Outcome<Files> {
        let model = folder.join("model");
        fs::create_dir_all(&model)?;
        fs::write(model.join("config.json"), b"{}")?;
        fs::write(model.join("tokenizer.json"), b"{}")?;
        let (mut raw, mut sealed) = (Vec::new(), Vec::new());
        for layer in 0..LAYERS {
            let header =
                format!(r#"{{"t{layer}":{{"dtype":"U8","shape":[{layer_bytes}],"data_offsets":[0,{layer_bytes}]}}}}"#);
            let mut weights = File::create(model.join(format!("part-{layer}.safetensors")))?;
            weights.write_all(&(header.len() as u64).to_le_bytes())?;
            weights.write_all(header.as_bytes())?;
            let (raw_path, sealed_path) = (folder.join(format!("raw-{layer}")), folder.join(format!("sealed-{layer}")));
            let (mut raw_file, mut sealed_file) = (File::create(&raw_path)?, File::create(&sealed_path)?);
            let key = chunk_key();
            for index in 0..layer_bytes / CHUNK {
                let mut chunk: Vec<u8> =
                    (0..CHUNK).map(|byte| (byte.wrapping_mul(31) ^ index ^ layer << 5) as u8).collect();
                weights.write_all(&chunk)?;
                raw_file.write_all(&chunk)?;
                let sealed = key.seal_in_place_append_tag(nonce(index), Aad::empty(), &mut chunk);
                sealed.map_err(|_| "cannot seal")?;
                sealed_file.write_all(&chunk)?;
            }
            raw.push(raw_path);
            sealed.push(sealed_path);
        }
        let (plain, encrypted) = (folder.join("plain.bundle"), folder.join("encrypted.bundle"));
        for (out, encrypt_to) in [(&plain, vec![]), (&encrypted, vec![Recipient::of_secret(&SECRET)])] {
            seal(&request(&model, layer_bytes, encrypt_to)?, key()?, out)?;
        }
        Ok(Files { raw, sealed, plain, encrypted })
    }
}

fn key() -> Outcome<&'static SigningKey> {
    static KEY: std::sync::OnceLock<SigningKey> = std::sync::OnceLock::new();
    if KEY.get().is_none() {
        let _ = KEY.set(SigningKey::generate(Curve::P256)?);
    }
    Ok(KEY.get().ok_or("just made")?)
}

fn request(from: &Path, layer_bytes: usize, encrypt_to: Vec<Recipient>) -> Outcome<SealRequest> {
    Ok(SealRequest {
        from: from.to_owned(),
        leave_out: Vec::new(),
        name: "bench".parse()?,
        version: "1.0.0".parse()?,
        counter: Counter(1),
        epoch: Epoch(1),
        channel: "stable".parse()?,
        issued_at: "2026-01-01T00:00:00Z".parse()?,
        not_before: None,
        expires: None,
        expiry_policy: ExpiryPolicy::RefuseLoad,
        trust_root_version: 1,
        revocation_min: 0,
        contract: Contract::default(),
        adapter: None,
        known_answers: None,
        quantize: None,
        encrypt_to,
        shard_bytes: layer_bytes as u64,
    })
}

/// From the open file to the verified bundle in memory, and by how many MiB the process grew beyond the weights.
fn load(path: &Path, layer_bytes: usize) -> Outcome<(Taken, u64)> {
    // Forgets the peak so far.
    fs::write("/proc/self/clear_refs", "5")?;
    let before = status("VmRSS:")?;
    let root = trust::of_key(key()?)?;
    let mut kept = Vec::new();
    let taken = timed(|| {
        let bundle = SealedBundle::open(File::open(path)?)?.verify(&root)?.unlock(&[SECRET])?;
        let admitted = admit(bundle)?;
        kept = admitted.load_weights(Keep::default(), &|_| ())?;
        Ok(())
    })?;
    let peak = status("VmHWM:")?;
    assert_eq!(kept.iter().map(|tensor| tensor.len()).sum::<usize>(), LAYERS * layer_bytes);
    let weights = (LAYERS * layer_bytes) as u64 >> 10;
    Ok((taken, peak.saturating_sub(before + weights) >> 10))
}

fn admit(bundle: ampoule_bundle::VerifiedBundle) -> Outcome<AdmittedBundle> {
    let policy = RuntimePolicy::new(env!("CARGO_PKG_VERSION").parse()?, [Endpoint::ChatCompletions]);
    let now: Timestamp = "2026-06-01T00:00:00Z".parse()?;
    let host = HostFacts { now, cpu_features: [].into(), memory_bytes: u64::MAX, accelerators: [].into() };
    Ok(bundle.admit(&policy, &host, &HighWaterMarks::none())?)
}

/// A line of this process's status, in KiB.
fn status(label: &str) -> Outcome<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(label)).ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The loop that does no more than it must.
fn reference(paths: &[PathBuf], layer_bytes: usize, key: Option<&LessSafeKey>) -> Outcome<()> {
    let next = AtomicUsize::new(0);
    let kept = Mutex::new(Vec::new());
    let worker = || -> Outcome<()> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let file = File::open(path)?;
            let mut memory = MmapMut::map_anon(layer_bytes)?;
            memory.advise(Advice::HugePage)?;
            match key {
                None => hash_into(&file, &mut memory)?,
                Some(key) => decrypt_into(&file, key, &mut memory)?,
            }
            kept.lock().map_err(|_| "a thread panicked")?.push(memory);
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism()?.get().min(LAYERS);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| worker().is_ok())).collect();
        worker()?;
        match others.into_iter().all(|thread| thread.join().is_ok_and(|fine| fine)) {
            true => Ok(()),
            false => Err("a thread failed".into()),
        }
    })
}

fn hash_into(file: &File, memory: &mut [u8]) -> Outcome<()> {
    let mut hasher = Hasher::new();
    for (index, stride) in memory.chunks_mut(STRIDE).enumerate() {
        file.read_exact_at(stride, (index * STRIDE) as u64)?;
        hasher.update(stride);
    }
    std::hint::black_box(hasher.finish());
    Ok(())
}

fn decrypt_into(file: &File, key: &LessSafeKey, memory: &mut [u8]) -> Outcome<()> {
    let (mut outside, mut inside) = (Hasher::new(), Hasher::new());
    let mut chunk = vec![0; SEALED_CHUNK];
    for (index, place) in memory.chunks_mut(CHUNK).enumerate() {
        file.read_exact_at(&mut chunk, (index * SEALED_CHUNK) as u64)?;
        outside.update(&chunk);
        let opened = key.open_in_place(nonce(index), Aad::empty(), &mut chunk).map_err(|_| "a chunk does not open")?;
        inside.update(opened);
        place.copy_from_slice(opened);
    }
    std::hint::black_box((outside.finish(), inside.finish()));
    Ok(())
}

fn chunk_key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[5; 32]).expect("32 bytes"))
}

fn nonce(index: usize) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&(index as u64).to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seconds.
#[derive(Clone, Copy)]
struct Taken {
    wall: f64,
    /// Of all processors together, in the program.
    user: f64,
    /// The same in the system.
    system: f64,
}

fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<Taken> {
    let (began, before) = (Instant::now(), processor_seconds()?);
    work()?;
    let (wall, after) = (began.elapsed().as_secs_f64(), processor_seconds()?);
    Ok(Taken { wall, user: after.0 - before.0, system: after.1 - before.1 })
}

fn processor_seconds() -> Outcome<(f64, f64)> {
    // The name of the program, which ends with a bracket, may hold spaces; user and system time are the 14th and 15th field.
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().ok_or("no fields")?.split_whitespace().collect();
    let seconds =
        |index: usize| -> Outcome<f64> { Ok(fields.get(index).ok_or("too few fields")?.parse::<f64>()? / 100.0) };
    Ok((seconds(11)?, seconds(12)?))
}
