//! The image's one layer: a tar that holds one file.  Written here, because a few constants are all that a general tar
//! library would have to be kept from filling in by itself: no time, no owner, no name of a user.

use anyhow::{Result, ensure};

/// Tar is made of these.
const BLOCK: usize = 512;

/// The layer that holds `/ampoule`.
pub(super) fn of_binary(binary: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Vec::with_capacity(binary.len() + 4 * BLOCK);
    layer.extend_from_slice(&header("ampoule", binary.len())?);
    layer.extend_from_slice(binary);
    layer.resize(layer.len().next_multiple_of(BLOCK), 0);
    // Two empty blocks end the archive.
    layer.resize(layer.len() + 2 * BLOCK, 0);
    Ok(layer)
}

/// A ustar header: a file that everybody may read and run and nobody owns but number 0, at the beginning of 1970.
fn header(name: &str, size: usize) -> Result<[u8; BLOCK]> {
    ensure!(size < 1 << 33, "a file of {size} bytes does not fit the eleven digits of a tar header");
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, text: &str| block[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The checksum is taken over a header whose checksum is spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn gnu_tar_lists_one_file_that_nobody_owns() -> Result<()> {
        let path = std::env::temp_dir().join(format!("ampoule-layer-{}.tar", std::process::id()));
        std::fs::write(&path, of_binary(&[7; 1000])?)?;
        let listing = crate::process::output(
            Command::new("tar").env("TZ", "UTC").args(["--list", "--verbose", "--numeric-owner", "--file"]).arg(&path),
        );
        std::fs::remove_file(&path)?;
        let listing = listing?;
        let words: Vec<&str> = listing.split_whitespace().collect();
        assert_eq!(words, ["-rwxr-xr-x", "0/0", "1000", "1970-01-01", "00:00", "ampoule"]);
        Ok(())
    }
}
