//! Memory for weights and activations: aligned for vectors, zero at first, and in huge pages where the kernel has them.
//!
//! The first touch of a page costs more than to hash it, so large pieces are allocated once and reused, and come from the
//! system: the allocator would write their zeros at once, page by page and before it can be told that huge ones are wanted.

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

/// The width of the widest vector, and of a cache line; pages begin at multiples of it.
const ALIGNMENT: usize = 64;
/// From this size on, memory comes from the system: one huge page.
const LARGE_BYTES: usize = 2 << 20;

/// Numbers whose bytes may be anything, zero included.
///
/// # Safety
/// Every pattern of bits must be a value of the type.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: every pattern of bits is a value of these.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// A slice that owns its memory and begins at a cache line.
pub struct Buffer<T: Plain> {
    pointer: NonNull<T>,
    length: usize,
    /// A large piece's memory; a small one's is the allocator's.
    mapped: Option<MmapMut>,
}

// SAFETY: a buffer is the only owner of its memory, and `Plain` values may go to other threads.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above; a shared buffer can only be read.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `length` zeros.  Pages of a large piece are touched when they are first written.
    ///
    /// Ends the process when there is no such memory, as every allocation does: what a model takes is foreseen before.
    pub fn zeroed(length: usize) -> Buffer<T> {
        let layout = layout::<T>(length);
        if layout.size() == 0 {
            return Buffer { pointer: NonNull::dangling(), length, mapped: None };
        }
        if layout.size() >= LARGE_BYTES {
            let Ok(mut mapped) = MmapMut::map_anon(layout.size()) else { alloc::handle_alloc_error(layout) };
            // It costs a fault for each 4 KiB where the system knows no huge pages, and nothing else.
            #[cfg(target_os = "linux")]
            let _ = mapped.advise(Advice::HugePage);
            let pointer = NonNull::from(&mut mapped[..]).cast();
            return Buffer { pointer, length, mapped: Some(mapped) };
        }
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc::alloc_zeroed(layout) };
        let Some(pointer) = NonNull::new(pointer) else { alloc::handle_alloc_error(layout) };
        Buffer { pointer: pointer.cast(), length, mapped: None }
    }

    /// Makes room for at least `length` elements; what was there before is lost if there was not.
    pub fn reserve_zeroed(&mut self, length: usize) {
        if self.length < length {
            *self = Buffer::zeroed(length);
        }
    }
}

/// What the memory of so many elements is.
fn layout<T>(length: usize) -> Layout {
    let layout = Layout::array::<T>(length).expect("a buffer is smaller than the address space");
    layout.align_to(ALIGNMENT).expect("the size rounded up is smaller than the address space")
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        let layout = layout::<T>(self.length);
        if self.mapped.is_none() && layout.size() > 0 {
            // SAFETY: `zeroed` allocated the memory with this very layout, and nothing else frees it.
            unsafe { alloc::dealloc(self.pointer.as_ptr().cast(), layout) };
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the memory holds `length` elements, zero at first, and every pattern of bits is a value.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for reading, and the buffer is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl<T: Plain> Default for Buffer<T> {
    fn default() -> Buffer<T> {
        Buffer::zeroed(0)
    }
}

impl<T: Plain> fmt::Debug for Buffer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer<{}>[{}]", std::any::type_name::<T>(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_aligned_and_writable() {
        for length in [0, 1, 17, 1 << 10, LARGE_BYTES / 4 - 1, LARGE_BYTES / 4 + 3] {
            let mut buffer: Buffer<f32> = Buffer::zeroed(length);
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % ALIGNMENT), (length, if length == 0 { 4 } else { 0 }));
            assert!(buffer.iter().all(|&value| value == 0.0));
            buffer.fill(1.5);
            assert_eq!(buffer.iter().filter(|&&value| value == 1.5).count(), length);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn large_memory_is_not_touched_before_it_is_written() {
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").expect("this process's memory");
            let pages: usize = pages.split(' ').nth(1).expect("resident pages").parse().expect("a number");
            pages * 4096
        };
        const BYTES: usize = 256 << 20;
        let before = resident();
        let mut buffer: Buffer<u8> = Buffer::zeroed(BYTES);
        assert!(resident() < before + BYTES / 2, "it was written");
        buffer.fill(1);
        assert!(resident() >= before + BYTES / 2, "it is not there");
    }

    #[test]
    fn room_is_made_once() {
        let mut buffer: Buffer<u8> = Buffer::default();
        buffer.reserve_zeroed(100);
        buffer[99] = 7;
        buffer.reserve_zeroed(50);
        assert_eq!((buffer.len(), buffer[99]), (100, 7));
        buffer.reserve_zeroed(101);
        assert_eq!((buffer.len(), buffer[99]), (101, 0));
    }
}
