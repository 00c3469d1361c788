//! Chance from a seed. Hash tables, `select!` and fresh names all draw from the system's entropy; on a thread that
//! [`seeded`] started, the system's entropy is a stream of the seed's, so that a run can be had again.

use std::cell::RefCell;

use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

thread_local! {
    static STREAM: RefCell<Option<ChaCha8Rng>> = const { RefCell::new(None) };
}

/// Runs `work` on a thread of its own, where all chance comes from `seed`; its panic is the caller's.
pub(crate) fn seeded<T: Send>(seed: u64, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let own = scope.spawn(move || {
            STREAM.set(Some(ChaCha8Rng::seed_from_u64(seed)));
            work()
        });
        own.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Stands before the C library's function of this name, which all of this program calls.
///
/// # Safety
/// As that function: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: usize,
    flags: libc::c_uint,
) -> isize {
    let drawn = STREAM.try_with(|stream| {
        let mut stream = stream.try_borrow_mut().ok()?;
        let stream = stream.as_mut()?;
        // SAFETY: the caller gives a buffer of `length` bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        stream.fill_bytes(bytes);
        isize::try_from(length).ok()
    });
    match drawn {
        Ok(Some(length)) => length,
        // SAFETY: the system call has the caller's own arguments.
        Ok(None) | Err(_) => unsafe {
            libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize
        },
    }
}
