//! The two kinds of tar header that a bundle has. Both are generated, never interpreted: a reader compares.

use super::Entry;

/// The unit of everything in a tar file.
pub(super) const BLOCK: u64 = 512;

/// Where a layer's data starts: at a multiple of this, so that a layer can be mapped in place.
pub(super) const ALIGNMENT: u64 = 4096;

/// A ustar header for a regular file.
pub(super) fn file_header(entry: &Entry) -> [u8; 512] {
    header(&entry.name, entry.size, b'0')
}

/// A PAX extended header with one `comment` record, so long that the data of the entry after it starts at a multiple of
/// [`ALIGNMENT`] when this header starts at `offset`.
pub(super) fn padding_header(offset: u64, entry: &Entry) -> Vec<u8> {
    // This header, its data and the entry's own header come before the entry's data.
    let before_data = offset + 2 * BLOCK;
    let blocks = match (ALIGNMENT - before_data % ALIGNMENT) % ALIGNMENT / BLOCK {
        0 => ALIGNMENT / BLOCK,
        blocks => blocks,
    };
    let length = usize::try_from(blocks * BLOCK).expect("at most 4096");
    let mut bytes = header(&format!("PaxHeaders/{}", entry.name), blocks * BLOCK, b'x').to_vec();
    // A record is `LENGTH comment=VALUE\n`, where LENGTH counts the whole record; here it fills the blocks.
    let record = format!("{length} comment=");
    bytes.extend_from_slice(record.as_bytes());
    bytes.resize(bytes.len() + length - record.len() - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// How many zero bytes follow `size` bytes of data.
pub(super) fn padding_after(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn header(name: &str, size: u64, kind: u8) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |offset: usize, text: &[u8]| block[offset..offset + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000444\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    let checksum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    block
}
