//! A tar file taken apart without any of the format's rules, to be put together again with something wrong in it.

use ampoule_bundle::Digest;

const BLOCK: usize = 512;

/// The entries of an archive, in order.
pub(crate) struct LooseArchive(pub(crate) Vec<LooseEntry>);

/// One entry: its 512-byte header and its data, without padding.
pub(crate) struct LooseEntry {
    pub(crate) header: [u8; BLOCK],
    pub(crate) data: Vec<u8>,
}

impl LooseArchive {
    pub(crate) fn read(bytes: &[u8]) -> LooseArchive {
        let mut entries = Vec::new();
        let mut offset = 0;
        while bytes[offset..offset + BLOCK].iter().any(|&byte| byte != 0) {
            let header: [u8; BLOCK] = bytes[offset..offset + BLOCK].try_into().unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&header[124..135]).unwrap(), 8).unwrap();
            let start = offset + BLOCK;
            entries.push(LooseEntry { header, data: bytes[start..start + size].to_vec() });
            offset = start + size.next_multiple_of(BLOCK);
        }
        LooseArchive(entries)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.header);
            bytes.extend_from_slice(&entry.data);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    /// The entry of the model manifest.
    pub(crate) fn manifest(&mut self) -> &mut LooseEntry {
        &mut self.0[2]
    }

    /// The entry of the first attestation, which is the release statement's.
    pub(crate) fn first_attestation(&mut self) -> &mut LooseEntry {
        &mut self.0[6]
    }

    /// The first PAX header.
    pub(crate) fn first_pax(&mut self) -> &mut LooseEntry {
        self.0.iter_mut().find(|entry| entry.header[156] == b'x').unwrap()
    }
}

impl LooseEntry {
    /// Puts other content in, named by its own digest: as good a blob as any.
    pub(crate) fn replace_blob(&mut self, data: Vec<u8>) {
        self.set(0, format!("blobs/sha256/{}", Digest::of(&data).to_hex()).as_bytes());
        self.set_size(data.len());
        self.data = data;
    }

    pub(crate) fn edit_text(&mut self, from: &str, to: &str) {
        let text = std::str::from_utf8(&self.data).unwrap();
        assert!(text.contains(from), "`{from}` is not in {text}");
        let data = text.replacen(from, to, 1).into_bytes();
        self.replace_blob(data);
    }

    pub(crate) fn set_size(&mut self, size: usize) {
        self.set(124, format!("{size:011o}").as_bytes());
    }

    /// Writes a header field and makes the checksum right again.
    pub(crate) fn set(&mut self, offset: usize, value: &[u8]) {
        self.header[offset..offset + value.len()].copy_from_slice(value);
        self.header[148..156].copy_from_slice(b"        ");
        let sum: u32 = self.header.iter().map(|&byte| u32::from(byte)).sum();
        self.header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
