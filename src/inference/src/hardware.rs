//! What the processor can do, by the names that release statements require features by.

use std::collections::BTreeSet;

/// The processor's features by their Linux names, asked of the processor itself: in an empty root there is no /proc.
#[cfg(target_arch = "x86_64")]
pub fn cpu_features() -> BTreeSet<String> {
    macro_rules! detected {
        ($($linux:literal = $rust:tt),* $(,)?) => {
            [$(($linux, std::arch::is_x86_feature_detected!($rust))),*]
        };
    }
    let table = detected![
        "sse4_2" = "sse4.2",
        "avx" = "avx",
        "avx2" = "avx2",
        "fma" = "fma",
        "f16c" = "f16c",
        "bmi2" = "bmi2",
        "avx512f" = "avx512f",
        "avx512bw" = "avx512bw",
        "avx512vl" = "avx512vl",
        "avx512_vnni" = "avx512vnni",
        "avx512_bf16" = "avx512bf16",
        "avx_vnni" = "avxvnni",
    ];
    table.into_iter().filter(|(_, present)| *present).map(|(name, _)| name.to_owned()).collect()
}

/// The processor's features by their Linux names.
#[cfg(target_arch = "aarch64")]
pub fn cpu_features() -> BTreeSet<String> {
    let table = [
        ("asimd", std::arch::is_aarch64_feature_detected!("neon")),
        ("asimddp", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    table.into_iter().filter(|(_, present)| *present).map(|(name, _)| name.to_owned()).collect()
}
