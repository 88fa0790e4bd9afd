//! Which of the processor's vector instructions are used: found once, told to whoever asks, and forced by tests.

use std::fmt;
use std::str::FromStr;

use crate::simd::{self, Kernel};

/// A set of instructions that the kernels are compiled for, the least first.
///
/// A value says that the processor has the instructions: there is no way to one but [`Isa::best`] and [`Isa::available`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

/// A name that is no instruction set of this processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownIsa {
    /// What was asked for.
    pub found: String,
}

impl Isa {
    /// The fastest that this processor has.
    pub fn best() -> Isa {
        // Each set includes all that stand before it, and the portable one is always there.
        Isa(Isa::sets().filter(|set| !is_slow(*set)).last().unwrap_or(Set::Portable))
    }

    /// All that this processor has, the least first.
    pub fn available() -> Vec<Isa> {
        Isa::sets().map(Isa).collect()
    }

    /// The name, as metadata and the bench report tell it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2Vnni => "avx2-vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "avx512-vnni-bf16",
        }
    }

    /// Whether products of bfloat16 are one instruction.
    pub(crate) fn dots_brain(self) -> bool {
        struct DotsBrain;
        impl Kernel for DotsBrain {
            type Output = bool;

            #[inline(always)]
            fn run<S: simd::Simd>(self, _simd: S) -> bool {
                S::DOTS_BRAIN
            }
        }
        self.run(DotsBrain)
    }

    /// Runs a kernel, compiled for these instructions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run(simd::Portable),
            // SAFETY: a value of this set exists only where the processor was asked for the features and has them.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2Vnni if const { K::DOTS_BYTES } => unsafe { simd::avx2_vnni(kernel) },
            // SAFETY: as above, and the second set includes the first.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 | Set::Avx2Vnni => unsafe { simd::avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 if const { K::DOTS_BRAIN } => unsafe { simd::avx512_bf16(kernel) },
            // SAFETY: as above, and the second set includes the first.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 | Set::Avx512Bf16 => unsafe { simd::avx512(kernel) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn sets() -> impl Iterator<Item = Set> {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("f16c");
        let avx2_vnni = avx2 && has!("avxvnni");
        let avx512 =
            avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni");
        let avx512_bf16 = avx512 && has!("avx512bf16");
        let found = [
            (Set::Portable, true),
            (Set::Avx2, avx2),
            (Set::Avx2Vnni, avx2_vnni),
            (Set::Avx512, avx512),
            (Set::Avx512Bf16, avx512_bf16),
        ];
        found.into_iter().filter(|(_, present)| *present).map(|(set, _)| set)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn sets() -> impl Iterator<Item = Set> {
        std::iter::once(Set::Portable)
    }
}

/// Whether a set is slower than the one before it.
#[cfg(target_arch = "x86_64")]
fn is_slow(set: Set) -> bool {
    // Intel's instruction for pairs of bfloat16 takes four times as long as one fused multiplication, and does as much as two.
    let vendor = std::arch::x86_64::__cpuid(0);
    set == Set::Avx512Bf16
        && [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_slow(_set: Set) -> bool {
    false
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        let found = Isa::available().into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| UnknownIsa { found: name.to_owned() })
    }
}

impl fmt::Display for UnknownIsa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        write!(formatter, "`{}` is no instruction set of this processor; it has: {}", self.found, names.join(", "))
    }
}

impl std::error::Error for UnknownIsa {}
