//! Who may change a file that decides what a host trusts: asked by whoever opens one, answered from its mode alone.

/// The mode of a file that every user of its host may write; `None` for one that they may not.
///
/// A trust root of which this is `Some` must be refused: whoever can exchange it decides what is trusted.
pub fn writable_by_all(mode: u32) -> Option<u32> {
    const WRITABLE_BY_ALL: u32 = 0o002;
    const PERMISSIONS: u32 = 0o7777;
    (mode & WRITABLE_BY_ALL != 0).then_some(mode & PERMISSIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bit_of_the_others_counts() {
        assert_eq!(writable_by_all(0o100_664), None);
        assert_eq!(writable_by_all(0o100_666), Some(0o666));
        assert_eq!(writable_by_all(0o041_777), Some(0o1777));
    }
}
