//! Memory that is free or not needed for now, given back.
//!
//! Left to itself, the allocator makes a heap for each thread, up to eight a
//! core, and gives back only what lies at the end of one: after a burst of
//! requests a control plane would hold several times what it uses, for good.
//! And the pages of the program that only its start ran stay mapped: several
//! times what an idle process runs.

use std::time::Duration;

use nix::libc;

/// Heaps, shared by all threads: the roles have two worker threads, and what
/// other threads do is short.
const HEAPS: libc::c_int = 2;

/// How often memory goes back to the system. It takes milliseconds, and a burst
/// is over after a minute or uses the memory again.
const INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a page; what is let go of is rounded up to whole ones.
const PAGE: usize = 4096;

/// The stack of the thread that does it, in bytes: its calls are
/// shallow.
const STACK: usize = 64 << 10;

/// Keeps the process to few heaps, and has memory given back now and then. To
/// be called before any other thread runs.
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
            unmap_program();
        }
    });
}

/// Lets go of what is mapped of the program's file and cannot be written to:
/// code, constants, tables of the start. What is used next is mapped again from
/// the page cache, 64 KiB at a time, in about a microsecond each.
fn unmap_program() {
    for (start, length) in read_only() {
        // SAFETY: the range is a mapping of the program's file that was never
        // writable, so that its pages are those of the file, and come back as
        // they were.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of each segment of the program that was never writable, in
/// whole pages. A segment that the start has written to and then protected is
/// none of them.
fn read_only() -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    // SAFETY: the callback is called before this returns, with that pointer.
    unsafe { libc::dl_iterate_phdr(Some(add_read_only), (&raw mut found).cast()) };
    found
}

/// Adds the segments of the first object, which is the program itself.
unsafe extern "C" fn add_read_only(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the caller passes a description that is valid during the call,
    // with as many headers as it says, and what it was given itself.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<(usize, usize)>>()) };
    // SAFETY: as above.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for header in headers {
        let address = info.dlpi_addr.wrapping_add(header.p_vaddr) as usize;
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = address & !(PAGE - 1);
            let end = (address + header.p_memsz as usize).next_multiple_of(PAGE);
            found.push((start, end - start));
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_let_go() {
        let found = read_only();
        let holds = |address: usize| {
            found
                .iter()
                .any(|(start, length)| (*start..start + length).contains(&address))
        };
        static CONSTANT: [u8; 4] = *b"text";
        static CORRECTED: [&str; 2] = ["pointers", "to text"];
        assert!(holds(unmap_program as *const () as usize));
        assert!(holds(CONSTANT.as_ptr() as usize));
        // The start writes the program's place into these.
        assert!(!holds(CORRECTED.as_ptr() as usize));
        assert!(!holds((&raw const found).addr()));
    }

    #[test]
    fn the_program_runs_on_when_it_was_let_go() {
        unmap_program();
        assert_eq!("12".parse(), Ok(12));
    }
}
