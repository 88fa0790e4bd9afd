//! Loading the weights in one pass: nothing is read twice, and nothing leaves the sink before every digest matched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ampoule_bundle::statement::Endpoint;
use ampoule_bundle::{
    AdmittedBundle, BundleError, Curve, HighWaterMarks, HostFacts, LayerKind, LoadError, RuntimePolicy, Source,
    TensorBytes, TensorEntry, TensorKind, TensorSink,
};

use crate::sample::{Draft, Signer, draft, file, open_and_verify, refusal, root, safetensors, time};

fn admitted(source: impl Source + 'static, signer: &Signer) -> AdmittedBundle {
    let policy = RuntimePolicy::new(semver::Version::new(0, 1, 0), [Endpoint::ChatCompletions]);
    let host = HostFacts {
        now: time("2026-06-01T00:00:00Z"),
        cpu_features: ["avx2".to_owned()].into(),
        memory_bytes: 1 << 30,
        accelerators: Default::default(),
    };
    let verified = open_and_verify(source, &root(&[signer], 1)).unwrap();
    verified.admit(&policy, &host, &HighWaterMarks::none()).unwrap()
}

/// What was placed under a name.
pub(crate) type Placed = (TensorKind, Vec<usize>, Vec<u8>);

/// Keeps all tensors; can be told to refuse one, and says whether it was finished.
#[derive(Default)]
pub(crate) struct Keep {
    tensors: Mutex<BTreeMap<String, Placed>>,
    refused: Option<&'static str>,
    finished: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
pub(crate) struct Refused;

impl TensorSink for Keep {
    type Output = BTreeMap<String, Placed>;
    type Error = Refused;
    type Memory = TensorBytes;

    fn open(&self, tensor: TensorEntry<'_>, length: usize) -> Result<TensorBytes, Refused> {
        if self.refused == Some(tensor.name) { Err(Refused) } else { Ok(TensorBytes::new(length)) }
    }

    fn place(&self, tensor: TensorEntry<'_>, memory: TensorBytes) -> Result<(), Refused> {
        let value = (tensor.kind, tensor.shape.to_vec(), memory.to_vec());
        assert!(self.tensors.lock().unwrap().insert(tensor.name.to_owned(), value).is_none(), "placed twice");
        Ok(())
    }

    fn finish(self) -> Result<Self::Output, Refused> {
        self.finished.store(true, Ordering::Relaxed);
        Ok(self.tensors.into_inner().unwrap())
    }
}

/// Two safetensors files and a GGUF file.
fn three_files() -> Draft {
    let mut draft = draft();
    let second = safetensors(r#"{"c":{"dtype":"U8","shape":[300000],"data_offsets":[0,300000]}}"#, 300_000);
    draft.files.push(file("second.safetensors", LayerKind::Weight, &second));
    // One Q8_0 block and, after the padding to 32 bytes, one number.
    let mut gguf = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    for (name, elements, kind, offset) in [("q", 32u64, 8u32, 0u64), ("n", 1, 0, 64)] {
        gguf.extend_from_slice(&1u64.to_le_bytes());
        gguf.extend_from_slice(name.as_bytes());
        gguf.extend_from_slice(&1u32.to_le_bytes());
        gguf.extend_from_slice(&elements.to_le_bytes());
        gguf.extend_from_slice(&kind.to_le_bytes());
        gguf.extend_from_slice(&offset.to_le_bytes());
    }
    gguf.resize(gguf.len().next_multiple_of(32), 0);
    gguf.extend_from_slice(&[7; 34]);
    gguf.extend_from_slice(&[0; 30]);
    gguf.extend_from_slice(&[1, 2, 3, 4]);
    draft.files.push(file("third.gguf", LayerKind::Weight, &gguf));
    draft
}

#[test]
fn every_tensor_arrives_once_with_its_bytes() {
    let signer = Signer::new(Curve::P256);
    let draft = three_files();
    let bundle = admitted(draft.seal(&[&signer]), &signer);
    let seen = AtomicU64::new(0);
    let tensors = bundle
        .load_weights(Keep::default(), &|bytes| {
            seen.fetch_add(bytes, Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!(seen.into_inner(), bundle.weight_bytes());
    let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "c", "n", "q"]);
    assert_eq!(tensors["a"], (TensorKind::F32, vec![2, 3], (1..=24).collect()));
    assert_eq!(tensors["b"], (TensorKind::I64, vec![], (25..=32).collect()));
    assert_eq!(tensors["c"].2.len(), 300_000);
    assert_eq!(tensors["n"], (TensorKind::F32, vec![1], vec![1, 2, 3, 4]));
    assert_eq!(tensors["q"], (TensorKind::Q8_0, vec![32], vec![7; 34]));
}

/// A source that counts how often each byte is read, from the time when counting begins.
pub(crate) struct Counting {
    pub(crate) bytes: Vec<u8>,
    pub(crate) counts: Arc<Mutex<Vec<u32>>>,
}

impl Source for Counting {
    fn length(&self) -> std::io::Result<u64> {
        self.bytes.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let count = self.bytes.read_at(buffer, offset)?;
        for read in &mut self.counts.lock().unwrap()[offset as usize..offset as usize + count] {
            *read += 1;
        }
        Ok(count)
    }
}

#[test]
fn c19_no_byte_of_a_layer_is_read_twice() {
    let signer = Signer::new(Curve::P256);
    let draft = three_files();
    let bytes = draft.seal(&[&signer]);
    let counts = Arc::new(Mutex::new(vec![0; bytes.len()]));
    let bundle = admitted(Counting { bytes: bytes.clone(), counts: Arc::clone(&counts) }, &signer);
    bundle.load_weights(Keep::default(), &|_| ()).unwrap();
    let counts = counts.lock().unwrap();
    for (path, _, content) in &draft.files {
        let start =
            bytes.chunks(4096).position(|page| page.starts_with(&content[..content.len().min(4096)])).unwrap() * 4096;
        assert!(counts[start..start + content.len()].iter().all(|&count| count == 1), "{path}");
    }
}

/// A source whose bytes change after they were verified.
#[derive(Clone)]
struct Changing(Arc<Mutex<Vec<u8>>>);

impl Source for Changing {
    fn length(&self) -> std::io::Result<u64> {
        self.0.lock().unwrap().length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.lock().unwrap().read_at(buffer, offset)
    }
}

#[test]
fn c19_a_file_that_changes_underneath_gives_nothing() {
    let signer = Signer::new(Curve::P256);
    let draft = three_files();
    let bytes = draft.seal(&[&signer]);
    let content = &draft.files[4].2;
    let start = bytes.chunks(4096).position(|page| page.starts_with(&content[..4096])).unwrap() * 4096;
    let shared = Changing(Arc::new(Mutex::new(bytes)));
    let bundle = admitted(shared.clone(), &signer);
    // The last byte of the tensor `c`.
    shared.0.lock().unwrap()[start + content.len() - 1] ^= 1;
    let keep = Keep::default();
    let finished = Arc::clone(&keep.finished);
    let error = bundle.load_weights(keep, &|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::Bundle(BundleError::DigestMismatch { .. })), "{error}");
    assert!(!finished.load(Ordering::Relaxed), "the sink gave out what was not verified");
    // And when the file is cut instead.
    shared.0.lock().unwrap().truncate(start + 10);
    let error = bundle.load_weights(Keep::default(), &|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::Bundle(BundleError::Truncated { .. })), "{error}");
}

#[test]
fn c19_a_name_that_comes_to_mean_another_file_changes_nothing_and_a_cut_file_is_an_error() {
    let signer = Signer::new(Curve::P256);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.bundle");
    std::fs::write(&path, three_files().seal(&[&signer])).unwrap();
    let opened = || admitted(std::fs::File::open(&path).unwrap(), &signer);
    let (replaced, linked, cut) = (opened(), opened(), opened());

    let original = folder.path().join("original");
    std::fs::rename(&path, &original).unwrap();
    std::fs::write(&path, b"something else").unwrap();
    assert_eq!(replaced.load_weights(Keep::default(), &|_| ()).unwrap().len(), 5);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert_eq!(linked.load_weights(Keep::default(), &|_| ()).unwrap().len(), 5);
    // A map of the file would end the process here.
    std::fs::File::options().write(true).open(&original).unwrap().set_len(100).unwrap();
    let error = cut.load_weights(Keep::default(), &|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::Bundle(BundleError::Truncated { .. })), "{error}");
}

/// A source that lies from the second time on that it is asked for a byte, as a file system of somebody's own can.
struct Fickle {
    bytes: Vec<u8>,
    /// From here on lie the layers; the frame before them is compared as often as it is read.
    layers: usize,
    seen: Mutex<Vec<bool>>,
}

impl Source for Fickle {
    fn length(&self) -> std::io::Result<u64> {
        self.bytes.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let count = self.bytes.read_at(buffer, offset)?;
        let mut seen = self.seen.lock().unwrap();
        for (index, byte) in buffer[..count].iter_mut().enumerate() {
            let position = offset as usize + index;
            if std::mem::replace(&mut seen[position], true) && position >= self.layers {
                *byte ^= 0xff;
            }
        }
        Ok(count)
    }
}

#[test]
fn c19_a_source_that_lies_the_second_time_is_asked_once() {
    let signer = Signer::new(Curve::P256);
    let draft = three_files();
    let bytes = draft.seal(&[&signer]);
    let first = bytes.chunks(4096).position(|page| page.starts_with(b"# A model\n")).unwrap() * 4096;
    let seen = Mutex::new(vec![false; bytes.len()]);
    let tensors = admitted(Fickle { bytes, layers: first, seen }, &signer).load_weights(Keep::default(), &|_| ());
    assert_eq!(tensors.unwrap()["q"].2, vec![7; 34]);
}

#[test]
fn a_sink_that_refuses_stops_the_load() {
    let signer = Signer::new(Curve::P256);
    let bundle = admitted(three_files().seal(&[&signer]), &signer);
    let keep = Keep { refused: Some("c"), ..Keep::default() };
    let finished = Arc::clone(&keep.finished);
    assert!(matches!(bundle.load_weights(keep, &|_| ()), Err(LoadError::Sink(Refused))));
    assert!(!finished.load(Ordering::Relaxed));
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    let signer = Signer::new(Curve::P256);
    let mut draft = three_files();
    let gguf = &mut draft.files[5].2;
    let length = gguf.len();
    gguf[length - 10] = 1;
    let bytes = draft.seal(&[&signer]);
    // Hashing alone and loading judge alike.
    let error = refusal(bytes.clone(), &root(&[&signer], 1));
    assert!(matches!(error, BundleError::WeightHeader { .. }), "{error}");
    let bundle = admitted(bytes, &signer);
    let error = bundle.load_weights(Keep::default(), &|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::Bundle(BundleError::WeightHeader { .. })), "{error}");
}
