//! Memory for one tensor: owned, touched for the first time when it is filled, and in huge pages where the system has them.
//!
//! No file is ever mapped here. A map of a file shows whatever the file becomes, and ends the process when it is cut short;
//! this memory belongs to nobody else, so what was hashed in it is what stays in it.

use std::ops::Deref;

use memmap2::{Advice, MmapMut};

use crate::tensor::TensorMemory;

/// From this size on, memory comes from the system and not from the allocator: one huge page.
const LARGE_BYTES: usize = 2 << 20;

/// The bytes of one tensor, as they stand in its file.
#[derive(Debug)]
pub struct TensorBytes {
    memory: Memory,
    filled: usize,
}

#[derive(Debug)]
enum Memory {
    Small(Vec<u8>),
    Large(MmapMut),
}

impl TensorBytes {
    /// Room for `length` bytes.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let mapped = (length >= LARGE_BYTES).then(|| MmapMut::map_anon(length).ok()).flatten();
        let memory = match mapped {
            Some(memory) => {
                // It costs a fault for each 4 KiB where the system knows no huge pages, and nothing else.
                let _ = memory.advise(Advice::HugePage);
                Memory::Large(memory)
            }
            None => Memory::Small(vec![0; length]),
        };
        Self { memory, filled: 0 }
    }
}

impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Small(bytes) => bytes,
            Memory::Large(bytes) => bytes,
        }
    }
}

impl TensorMemory for TensorBytes {
    fn room(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Small(bytes) => &mut bytes[self.filled..],
            Memory::Large(bytes) => &mut bytes[self.filled..],
        }
    }

    fn filled(&mut self, count: usize) {
        self.filled += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_pieces_is_there_whole() {
        for length in [0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1] {
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let mut memory = TensorBytes::new(length);
            let (first, rest) = bytes.split_at(length / 3);
            memory.fill_from(first);
            assert_eq!(memory.room().len(), rest.len());
            memory.fill_from(rest);
            assert!(memory.room().is_empty() && *memory == *bytes, "{length}");
        }
    }
}
