//! What the allocator keeps of memory that is free. Left to itself it makes a
//! heap for each thread, up to eight a core, and gives back only what lies at
//! the end of one: after a burst of requests a control plane would hold several
//! times what it uses, for good.

use std::time::Duration;

use nix::libc;

/// Heaps, shared by all threads: the roles have two worker threads, and what
/// other threads do is short.
const HEAPS: libc::c_int = 2;

/// How often free memory goes back to the system. It takes milliseconds, and a
/// burst is over after a minute or uses the memory again.
const INTERVAL: Duration = Duration::from_secs(60);

/// The stack of the thread that does it, in bytes: it calls one function.
const STACK: usize = 64 << 10;

/// Keeps the process to few heaps, and has free memory given back now and then.
/// To be called before any other thread runs.
pub fn economise() {
    // SAFETY: no other thread runs yet. A value that is refused changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) };
    let thread = std::thread::Builder::new().name("memory".into());
    // Without the thread all works as well, in more memory.
    let _ = thread.stack_size(STACK).spawn(|| {
        loop {
            std::thread::sleep(INTERVAL);
            // SAFETY: it takes the allocator's own locks and touches only what
            // is free.
            unsafe { libc::malloc_trim(0) };
        }
    });
}
