//! What computes: a set of instructions and the threads that use them.

use std::io;
use std::num::NonZero;

use crate::{Isa, Pool};

/// The instructions and the threads of one engine.
#[derive(Debug)]
pub struct Processor {
    /// What the kernels are compiled for.
    pub isa: Isa,
    /// Who computes them.
    pub pool: Pool,
}

impl Processor {
    /// So many threads with the best instructions that there are.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub fn new(threads: NonZero<usize>) -> io::Result<Processor> {
        Ok(Processor { isa: Isa::best(), pool: Pool::new(threads)? })
    }
}
