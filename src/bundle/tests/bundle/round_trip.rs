//! What is written can be read; the same contents give the same bytes; other tools read it too.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ampoule_bundle::archive::{self, Contents};
use ampoule_bundle::statement::AdapterBinding;
use ampoule_bundle::{Attestation, BundleError, Curve, Digest, LayerKind, SealedBundle, Source, read_exact};
use proptest::prelude::*;

use crate::sample::{Draft, Signer, check, draft, file, open_and_verify, root, safetensors};

#[test]
fn a_sealed_bundle_opens_and_shows_what_was_sealed() {
    for curve in [Curve::P256, Curve::P384] {
        let signer = Signer::new(curve);
        let root = root(&[&signer], 1);
        let draft = draft();
        let verified = open_and_verify(draft.seal(&[&signer]), &root).unwrap();
        verified.check_weights(&|_| ()).unwrap();

        let identity = verified.identity();
        assert_eq!(identity.name.as_str(), "sample");
        assert_eq!(identity.version.to_string(), "1.2.3");
        assert_eq!((identity.counter.0, identity.epoch.0), (7, 1));
        assert_eq!(identity.manifest, draft.manifest().digest());
        assert_eq!(identity.signers, [signer.id()]);
        assert_eq!(identity.root_digest, root.digest());
        assert_eq!(*verified.release(), draft.release_statement().predicate);
        let paths: Vec<&str> = verified.files().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["README.md", "config.json", "tokenizer.json"]);
        for (path, bytes) in verified.files() {
            assert_eq!(bytes, draft.content(path));
            assert_eq!(verified.file(path.as_str()), Some(bytes));
        }
        assert_eq!(verified.file("model.safetensors"), None, "weights are not held");
        let binding = verified.adapter_binding().unwrap();
        assert_eq!(binding.base, draft.manifest().digest());
        assert_eq!((binding.tokenizer, binding.chat_template), (Digest::of(br#"{"version":"1.0"}"#), None));
        let tensors: Vec<(&str, &[usize])> = verified.weights()[0]
            .header
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.as_str(), &*tensor.shape))
            .collect();
        assert_eq!(tensors, [("a", &[2, 3][..]), ("b", &[][..])]);
    }
}

#[test]
fn the_same_contents_give_the_same_bytes() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let mut attestations = draft.attestations(&[&signer]);
    let first = draft.write(&attestations);
    attestations.reverse();
    let mut shuffled = draft.clone();
    shuffled.files.reverse();
    assert!(first == shuffled.write(&attestations), "the order of the inputs shows in the file");
}

#[test]
fn a_full_disk_is_no_defect_of_the_bundle() {
    let draft = draft();
    let (manifest, config) = (draft.manifest(), draft.config());
    let contents: Vec<&[u8]> = manifest.layers().iter().map(|layer| draft.content(&layer.path)).collect();
    let layers: Vec<&dyn Source> = contents.iter().map(|content| content as &dyn Source).collect();
    let contents = Contents { manifest: &manifest, config: &config, attestations: &[], layers: &layers };
    for room in [0, 600, 9000] {
        let mut full = vec![0; room];
        let error = archive::write(&contents, &mut full.as_mut_slice()).unwrap_err();
        assert!(matches!(error, BundleError::Write { .. }), "{room}: {error}");
    }
}

#[test]
fn claims_name_both_ends_of_the_range_of_runtimes() {
    let signer = Signer::new(Curve::P256);
    let mut draft = draft();
    let shown = |draft: &Draft| SealedBundle::open(draft.seal(&[&signer])).unwrap().claims().to_string();
    assert!(shown(&draft).contains("runtime     0.1.0 or later, below 1.0.0\n"), "{}", shown(&draft));
    draft.release.requires.runtime.below = None;
    assert!(shown(&draft).contains("runtime     0.1.0 or later\n"), "{}", shown(&draft));
    assert!(shown(&draft).contains("kind        model\n"), "{}", shown(&draft));
    let base = Digest::of(b"base");
    draft.release.adapter = Some(AdapterBinding { base, tokenizer: base, chat_template: None });
    draft.release.not_before = draft.release.expires.take();
    let told = shown(&draft);
    for line in
        [&format!("kind        adapter of the base {base}"), "not before  2027-01-01T00:00:00Z", "expires     never"]
    {
        assert!(told.lines().any(|found| found == line), "{line}: {told}");
    }
    let claims = serde_json::to_value(SealedBundle::open(draft.seal(&[&signer])).unwrap().claims()).unwrap();
    assert_eq!((&claims["kind"], &claims["base"]), (&"adapter".into(), &base.to_string().into()));
    let bare = SealedBundle::open(draft.write(&[])).unwrap();
    assert!(bare.claims().to_string().starts_with("no readable release statement\n"));
}

/// A source that is interrupted now and then, and fails beyond its middle.
struct Failing(Vec<u8>, AtomicBool);

impl Source for Failing {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.1.fetch_xor(true, Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if offset as usize >= self.0.len() / 2 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.0.read_at(&mut buffer[..1], offset)
    }
}

#[test]
fn a_read_goes_on_after_an_interruption_and_ends_with_the_source() {
    let source: Box<dyn Source> = Box::new(Failing(vec![1, 2, 3, 4], AtomicBool::new(false)));
    let mut buffer = [0; 2];
    read_exact(&source, &mut buffer, 0).unwrap();
    assert_eq!((buffer, source.length().unwrap()), ([1, 2], 4));
    assert_eq!(read_exact(&source, &mut buffer, 1).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let short = Arc::new(vec![1, 2, 3]);
    assert_eq!(read_exact(&short, &mut buffer, 2).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(short.length().unwrap(), 3);
    let error = SealedBundle::open(Failing(vec![0; 12], AtomicBool::new(false))).err().expect("it cannot be read");
    assert!(matches!(error, BundleError::Io { .. }), "{error}");
}

#[test]
fn layers_start_at_multiples_of_4096() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let bytes = draft.seal(&[&signer]);
    for (path, _, content) in &draft.files {
        let aligned = bytes.chunks(4096).any(|page| page.starts_with(content) || content.starts_with(page));
        assert!(aligned, "{path} does not start at a multiple of 4096");
    }
}

#[test]
fn equal_files_share_a_blob_and_an_empty_object_is_no_exception() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let mut draft = draft();
    draft.files.push(file("special_tokens_map.json", LayerKind::Config, b"{}"));
    draft.files.push(file("1_Pooling/config.json", LayerKind::Config, b"{}"));
    draft.files.push(file("copy.md", LayerKind::Doc, b"# A model\n"));
    draft.files.push(file("empty", LayerKind::Doc, b""));
    let verified = open_and_verify(draft.seal(&[&signer]), &root).unwrap();
    assert_eq!(verified.files().count(), 7);
    for (path, bytes) in verified.files() {
        assert_eq!(bytes, draft.content(path), "{path}");
    }
}

#[test]
fn what_a_file_says_of_itself_is_what_was_written() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let sealed = SealedBundle::open(draft.seal(&[&signer])).unwrap();
    assert_eq!(sealed.unverified_release().unwrap(), draft.release_statement().predicate);
    assert_eq!(sealed.unverified_config().to_bytes(), draft.config());
    let parts = sealed.unverified_parts();
    assert_eq!((parts.manifest.digest(), parts.config), (draft.manifest().digest(), draft.config()));
    let digests = |attestations: &[Attestation]| attestations.iter().map(Attestation::digest).collect::<Vec<_>>();
    assert_eq!(digests(&parts.attestations), digests(sealed.unverified_attestations()));
    assert_eq!(parts.attestations.len(), 3);
    // Other signatures give another file of the same bundle.
    let again = SealedBundle::open(draft.seal(&[&signer])).unwrap();
    assert_ne!(sealed.content_digest(), again.content_digest());
    let bare = SealedBundle::open(draft.write(&[signer.attest(&draft.oms_payload())])).unwrap();
    let missing = bare.unverified_release().unwrap_err();
    assert!(matches!(missing, BundleError::MissingStatement { statement: "release" }), "{missing}");
}

#[test]
fn a_layer_is_copied_with_its_digest_checked() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let mut bytes = draft.seal(&[&signer]);
    let sealed = SealedBundle::open(bytes.clone()).unwrap();
    let layers = sealed.unverified_manifest().layers().to_vec();
    for (index, layer) in layers.iter().enumerate() {
        let mut copy = Vec::new();
        sealed.copy_layer(index, &mut copy).unwrap();
        assert_eq!(copy, draft.content(&layer.path));
        // Beyond the layer's end there is nothing to read.
        let (content, mut more) = (sealed.layer(index), vec![0; copy.len() + 1]);
        assert_eq!(content.length().unwrap(), copy.len() as u64);
        assert_eq!(content.read_at(&mut more, 0).unwrap(), copy.len());
        assert_eq!(&more[..copy.len()], copy);
        assert_eq!(content.read_at(&mut more, copy.len() as u64).unwrap(), 0);
    }
    let position = bytes.windows(9).position(|window| window == b"# A model").unwrap();
    bytes[position] ^= 1;
    let sealed = SealedBundle::open(bytes).unwrap();
    let found = sealed.copy_layer(0, &mut Vec::new());
    assert!(matches!(found, Err(BundleError::DigestMismatch { .. })), "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_sealed_opens_again(draft in any_draft()) {
        let signer = Signer::new(Curve::P256);
        let root = root(&[&signer], 1);
        let verified = open_and_verify(draft.seal(&[&signer]), &root).unwrap();
        for (path, bytes) in verified.files() {
            prop_assert_eq!(bytes, draft.content(path));
        }
        verified.check_weights(&|_| ()).unwrap();
    }

    #[test]
    fn bytes_that_are_no_bundle_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let root = root(&[&Signer::new(Curve::P256)], 1);
        prop_assert!(check(bytes, &root).is_err());
    }
}

/// Files with arbitrary names and contents, and one to three weight files.
fn any_draft() -> impl Strategy<Value = Draft> {
    let small = proptest::collection::btree_map("[a-z]{1,8}(/[a-z0-9_.]{0,6}x){0,2}", any::<Vec<u8>>(), 0..6);
    let weights = proptest::collection::vec(0usize..9000, 1..4);
    (small, weights).prop_map(|(small, weights)| {
        let mut draft = draft();
        draft.files.clear();
        for (index, (path, content)) in small.into_iter().enumerate() {
            // A number before each path keeps one from being a folder of another.
            draft.files.push(file(&format!("{index}/{path}"), LayerKind::Config, &content));
        }
        for (index, length) in weights.into_iter().enumerate() {
            let header = format!(r#"{{"t{index}":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
            draft.files.push(file(&format!("w{index}.safetensors"), LayerKind::Weight, &safetensors(&header, length)));
        }
        draft
    })
}

#[test]
fn other_tools_read_the_file() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let bytes = draft.seal(&[&signer]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bundle");
    std::fs::write(&path, &bytes).unwrap();

    const TEST: &str = "other_tools_read_the_file";
    if let Some(output) = run(TEST, Command::new("tar").arg("-tf").arg(&path)) {
        assert!(output.lines().count() >= 15, "{output}");
    }
    let script = "import sys, tarfile\n\
        members = tarfile.open(sys.argv[1]).getmembers()\n\
        assert all(m.isreg() and m.mode == 0o444 and m.mtime == 0 for m in members), members\n\
        assert len({m.name for m in members}) == len(members)\n\
        print(len(members))";
    if let Some(output) = run(TEST, Command::new("python3").args(["-c", script]).arg(&path)) {
        assert!(output.trim().parse::<usize>().unwrap() >= 15, "{output}");
    }
    let target = folder.path().join("layout");
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--all"]);
    copy.arg(format!("oci-archive:{}:bundle", path.display())).arg(format!("oci:{}:bundle", target.display()));
    if run(TEST, &mut copy).is_some() {
        check_blobs(&draft, &signer, &target);
    }
}

/// Manifests and blobs came through byte for byte.
fn check_blobs(draft: &Draft, signer: &Signer, layout: &Path) {
    let blob = |digest: &str| std::fs::read(layout.join("blobs/sha256").join(digest)).expect(digest);
    let manifest = draft.manifest();
    assert_eq!(blob(&manifest.digest().to_hex()), manifest.bytes());
    assert_eq!(blob(&manifest.config_digest().to_hex()), draft.config());
    for layer in manifest.layers() {
        assert_eq!(blob(&layer.digest.to_hex()), draft.content(&layer.path));
    }
    let names: Vec<_> = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap()).collect();
    let hint = signer.id().to_string();
    let is_attestation = |bytes: &[u8]| bytes.windows(64).any(|window| window == hint.as_bytes());
    let attestations = names.iter().filter(|entry| is_attestation(&std::fs::read(entry.path()).unwrap())).count();
    assert_eq!(attestations, 3, "release, model signing and cosign came along");
}

/// Runs a tool and gives its output, or prints that the tool is missing; under `CI=true` it must be there.
pub(crate) fn run(test: &str, command: &mut Command) -> Option<String> {
    let tool = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) => {
            assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: {tool} is missing");
            eprintln!("skipped: {test}: {tool} is missing");
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}
