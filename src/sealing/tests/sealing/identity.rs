//! What was sealed is what is opened: sealing and then opening changes nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Mutex;

use ampoule_bundle::{Digest, HighWaterMarks, SealedBundle, TensorBytes, TensorEntry, TensorSink};
use ampoule_sealing::seal::{SealRequest, seal};
use proptest::prelude::*;

use crate::support::{gguf, host, policy, request, root, safetensors, test_key, write_model};

/// Tensors as loaded: shape and bytes by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

#[derive(Default)]
struct Collect(Mutex<Tensors>);

impl TensorSink for Collect {
    type Output = Tensors;
    type Error = Infallible;
    type Memory = TensorBytes;

    fn open(&self, _: TensorEntry<'_>, length: usize) -> Result<TensorBytes, Infallible> {
        Ok(TensorBytes::new(length))
    }

    fn place(&self, tensor: TensorEntry<'_>, memory: TensorBytes) -> Result<(), Infallible> {
        self.0.lock().unwrap().insert(tensor.name.to_owned(), (tensor.shape.to_vec(), memory.to_vec()));
        Ok(())
    }

    fn finish(self) -> Result<Tensors, Infallible> {
        Ok(self.0.into_inner().unwrap())
    }
}

/// Seals, opens, verifies, admits and loads: what the runtime does.
fn round_trip(request: &SealRequest, folder: &Path) -> (BTreeMap<String, Vec<u8>>, Tensors) {
    let out = folder.join("out.bundle");
    let packed = seal(request, test_key(), &out).unwrap();
    let sealed = SealedBundle::open(std::fs::File::open(&out).unwrap()).unwrap();
    let verified = sealed.verify(&root()).unwrap();
    verified.check_weights(&|_| ()).unwrap();
    assert_eq!(verified.identity().manifest, packed.manifest().digest());
    assert_eq!(verified.release(), packed.release());
    let admitted = verified.admit(&policy(), &host(), &HighWaterMarks::none()).unwrap();
    let files = admitted.files().map(|(path, bytes)| (path.to_string(), bytes.to_vec())).collect();
    (files, admitted.load_weights(Collect::default(), &|_| ()).unwrap())
}

#[test]
fn what_is_sealed_comes_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    let (files, tensors) = round_trip(&request(&model), folder.path());
    assert_eq!(files.keys().collect::<Vec<_>>(), ["LICENSE", "config.json", "tokenizer.json"]);
    assert_eq!(files["config.json"], std::fs::read(model.join("config.json")).unwrap());
    assert_eq!(tensors["b.weight"], (vec![2, 4], (0..32).collect()));
    assert_eq!(tensors["a.weight"], (vec![8], (32..48).collect()));
}

#[test]
fn a_gguf_file_goes_in_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Some Name Q8.gguf");
    let data = [1.0, -2.0, 3.5];
    std::fs::write(&file, gguf("output.weight", &data)).unwrap();
    let (files, tensors) = round_trip(&request(&file), folder.path());
    assert!(files.is_empty());
    let expected: Vec<u8> = data.iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
    assert_eq!(tensors["output.weight"], (vec![3], expected));
    let sealed = SealedBundle::open(std::fs::read(folder.path().join("out.bundle")).unwrap()).unwrap();
    assert_eq!(sealed.unverified_manifest().layers()[0].digest, Digest::of(&std::fs::read(&file).unwrap()));
    assert_eq!(sealed.unverified_config().descriptor.family.as_deref(), Some("llama"));
}

#[test]
fn weights_cut_into_shards_are_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    let whole = round_trip(&request(&model), folder.path());
    // Each of the two tensors is longer than this, so each gets a shard.
    let (files, tensors) = round_trip(&SealRequest { shard_bytes: 8, ..request(&model) }, folder.path());
    assert_eq!(tensors, whole.1);
    let index: serde_json::Value = serde_json::from_slice(&files["model.safetensors.index.json"]).unwrap();
    assert_eq!(index["weight_map"]["b.weight"], "model-00001-of-00002.safetensors");
    assert_eq!(index["weight_map"]["a.weight"], "model-00002-of-00002.safetensors");
    assert_eq!(index["metadata"]["total_size"], 48);
}

#[test]
fn the_tensor_data_begins_at_a_page_boundary_of_file_and_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    let out = folder.path().join("out.bundle");
    seal(&request(&model), test_key(), &out).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    let needle: Vec<u8> = (0..48).collect();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    assert_eq!(at % 4096, 0, "the data lies at {at}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_small_model_survives_sealing(
        tensors in prop::collection::btree_map("[a-z]{1,8}(\\.[0-9]{1,3})?", prop::collection::vec(any::<u8>(), 0..300), 1..6),
        licence in prop::collection::vec(any::<u8>(), 0..9000),
        shard_bytes in 1_u64..800,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        write_model(&model);
        std::fs::write(model.join("LICENSE"), &licence).unwrap();
        let shapes: Vec<[usize; 1]> = tensors.values().map(|bytes| [bytes.len()]).collect();
        let table: Vec<(&str, &str, &[usize], &[u8])> = tensors
            .iter()
            .zip(&shapes)
            .map(|((name, bytes), shape)| (name.as_str(), "U8", shape.as_slice(), bytes.as_slice()))
            .collect();
        std::fs::write(model.join("model.safetensors"), safetensors(&table)).unwrap();

        let (files, loaded) = round_trip(&SealRequest { shard_bytes, ..request(&model) }, folder.path());
        prop_assert_eq!(&files["LICENSE"], &licence);
        let expected: Tensors = tensors.iter().map(|(name, bytes)| (name.clone(), (vec![bytes.len()], bytes.clone()))).collect();
        prop_assert_eq!(loaded, expected);
    }
}
