//! Tar entries and layout documents that are not the canonical ones are refused, and so is every desynchronising trick.

use ampoule_bundle::{BundleError, Curve, ErrorClass};

use crate::sample::{Signer, draft, refusal, root};

/// A bundle and where its tar headers are.
fn sealed() -> (Vec<u8>, Vec<usize>, ampoule_bundle::TrustRoot) {
    let signer = Signer::new(Curve::P256);
    let bytes = draft().seal(&[&signer]);
    let mut headers = Vec::new();
    let mut offset = 0;
    while bytes[offset] != 0 {
        headers.push(offset);
        let size = std::str::from_utf8(&bytes[offset + 124..offset + 135]).unwrap();
        offset += 512 + usize::from_str_radix(size, 8).unwrap().next_multiple_of(512);
    }
    (bytes, headers, root(&[&signer], 1))
}

/// Puts `text` at `offset` of a header and makes its checksum right again.
fn patch(bytes: &mut [u8], header: usize, offset: usize, text: &[u8]) {
    let block = &mut bytes[header..header + 512];
    block[offset..offset + text.len()].copy_from_slice(text);
    block[148..156].copy_from_slice(b"        ");
    let checksum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
}

#[test]
fn c02_entries_that_are_no_regular_files_are_refused() {
    let (bytes, headers, root) = sealed();
    for &header in &headers {
        for kind in b"\x00123456789xgLKSDNMVXA" {
            if bytes[header + 156] == *kind {
                continue;
            }
            let mut changed = bytes.clone();
            patch(&mut changed, header, 156, &[*kind]);
            let error = refusal(changed, &root);
            assert!(matches!(error, BundleError::NotCanonical { .. }), "{kind}: {error}");
        }
    }
}

#[test]
fn c03_headers_with_another_spelling_are_refused() {
    let (bytes, headers, root) = sealed();
    let fields: [(&str, usize, &[u8]); 14] = [
        ("mode", 100, b"0000644\0"),
        ("mode without zeros", 100, b"   444 \0"),
        ("uid", 108, b"0000001\0"),
        ("gid", 116, b"0001750\0"),
        ("size in base 256", 124, b"\x80\0\0\0\0\0\0\0\0\0\0\x01"),
        ("size 0", 124, b"00000000000\0"),
        ("size beyond the file", 124, b"77777777777\0"),
        ("size with a space", 124, b"0000000001 \0"),
        ("mtime", 136, b"00000000001\0"),
        ("link name", 157, b"/etc/passwd"),
        ("GNU magic", 257, b"ustar  \0"),
        ("user", 265, b"root\0"),
        ("device", 329, b"0000001\0"),
        ("prefix", 345, b"../../../tmp"),
    ];
    for &header in &headers {
        for (what, offset, text) in fields {
            let mut changed = bytes.clone();
            patch(&mut changed, header, offset, text);
            let error = refusal(changed, &root);
            // A size that changes what is read shows as a wrong digest, all else as a byte that differs.
            let digest = what.starts_with("size") && matches!(error, BundleError::DigestMismatch { .. });
            assert!(digest || error.class() == ErrorClass::Unreadable, "{what}: {error}");
        }
        let mut changed = bytes.clone();
        changed[header + 148..header + 154].copy_from_slice(b"000000");
        let error = refusal(changed, &root);
        assert!(matches!(error, BundleError::NotCanonical { .. } | BundleError::NotABundle), "checksum: {error}");
    }
}

#[test]
fn c03_pax_records_other_than_the_padding_are_refused() {
    let (bytes, headers, root) = sealed();
    let pax: Vec<usize> = headers.into_iter().filter(|&header| bytes[header + 156] == b'x').collect();
    assert_eq!(pax.len(), 4, "one for each layer");
    for header in pax {
        for record in
            [&b"12 size=999\n"[..], b"20 path=/etc/passwd\n", b"13 comment=x\n", b"0 comment=", b"99999999999 comment="]
        {
            let mut changed = bytes.clone();
            changed[header + 512..header + 512 + record.len()].copy_from_slice(record);
            let error = refusal(changed, &root);
            assert!(matches!(error, BundleError::NotCanonical { .. }), "{error}");
        }
    }
}

#[test]
fn c03_entries_that_are_repeated_left_out_or_moved_are_refused() {
    let (bytes, headers, root) = sealed();
    for (index, &header) in headers.iter().enumerate() {
        let end = headers.get(index + 1).copied().unwrap_or(bytes.len() - 1024);
        let entry = &bytes[header..end];
        let repeated = [&bytes[..end], entry, &bytes[end..]].concat();
        refusal(repeated, &root);
        let left_out = [&bytes[..header], &bytes[end..]].concat();
        refusal(left_out, &root);
        let moved = [entry, &bytes[..header], &bytes[end..]].concat();
        if index > 0 {
            refusal(moved, &root);
        }
    }
}

#[test]
fn c01_entry_names_that_are_no_digests_are_refused() {
    let (bytes, headers, root) = sealed();
    for name in
        [&b"blobs/sha256/../../../../etc/passwd\0"[..], b"/etc/passwd\0", b"blobs/sha512/00\0", b"\xff\xfe\0", b"\0"]
    {
        for &header in &headers {
            let mut changed = bytes.clone();
            patch(&mut changed, header, 0, name);
            let error = refusal(changed, &root);
            let expected = matches!(
                error,
                BundleError::UnexpectedEntry { .. } | BundleError::NotCanonical { .. } | BundleError::NotABundle
            );
            assert!(expected, "{error}");
        }
    }
}

#[test]
fn what_is_no_bundle_is_called_that() {
    let (_, _, root) = sealed();
    for bytes in [Vec::new(), b"GGUF".to_vec(), vec![0; 4096], b"PK\x03\x04".repeat(300)] {
        let error = refusal(bytes, &root);
        assert!(matches!(error, BundleError::NotABundle), "{error}");
        assert_eq!(error.class(), ErrorClass::Unreadable);
    }
}
