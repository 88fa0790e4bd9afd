//! Quantises what stands on standard input, so that other people's software can judge it
//! (`tests/fixtures/quantize/judge.py`).
//!
//! ```text
//! quantize FORMAT < numbers, f32, little-endian > blocks
//! ```

use std::error::Error;
use std::io::{self, Read, Write};

use ampoule_sealing::quantize::BlockFormat;
use clap::ValueEnum;

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("a format is missing")?;
    let format = BlockFormat::from_str(&name, false)?;
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|&number| f32::from_le_bytes(number)).collect();
    if !rest.is_empty() || !numbers.len().is_multiple_of(format.block_elements()) {
        return Err("these are no whole blocks".into());
    }
    let mut blocks = vec![0; numbers.len() / format.block_elements() * format.block_bytes()];
    format.quantize(&numbers, &mut blocks)?;
    Ok(io::stdout().write_all(&blocks)?)
}
