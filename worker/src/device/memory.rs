//! How the C library hands memory back.

/// A step frees what the next one needs again. With the C library's defaults that memory goes back to the kernel in
/// between, and zeroing it anew takes a seventh of a small network's step; so it is kept. Call before threads start.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The largest that glibc takes: bigger blocks are mapped one by one all the same.
        const MMAP_THRESHOLD: libc::c_int = 32 << 20;
        const TRIM_THRESHOLD: libc::c_int = libc::c_int::MAX;
        for (parameter, value) in [
            (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD),
            (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        ] {
            // SAFETY: `mallopt` reads two integers and takes the allocator's own lock. It refuses a value that it does
            // not know; then the default stays, which is slower and as right.
            let _accepted = unsafe { libc::mallopt(parameter, value) };
        }
    }
}
