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

/// The stack of the thread that does it, in bytes: its deepest call reads a
/// small file.
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
            unmap_code();
        }
    });
}

/// Lets go of the program's code. What runs next is mapped again from the page
/// cache, 64 KiB at a time, in about a microsecond each.
fn unmap_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some((start, length)) = code(&maps, unmap_code as *const () as usize) else {
        return;
    };
    // SAFETY: the range is a mapping of the program's file that nobody can
    // write to, so that its pages are those of the file, and come back as they
    // were.
    unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

/// Start and length of the mapping, readable and executable alone, of a file,
/// that has an address; from the text of a `/proc/PID/maps`.
fn code(maps: &str, address: usize) -> Option<(usize, usize)> {
    maps.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        let (start, end) = columns.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let private_code = columns.next()? == "r-xp";
        let of_a_file = columns.nth(2)? != "0";
        let here = (start..end).contains(&address);
        (private_code && of_a_file && here).then_some((start, end - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_is_let_go() {
        let maps = "\
1000-2000 r--p 00000000 fe:00 42    /bin/program
2000-5000 r-xp 00001000 fe:00 42    /bin/program
5000-6000 rw-p 00004000 fe:00 42    /bin/program
6000-7000 r-xp 00000000 00:00 0
";
        assert_eq!(code(maps, 0x2fff), Some((0x2000, 0x3000)));
        for address in [0x1fff, 0x5000, 0x6000, 0x7000] {
            assert_eq!(code(maps, address), None, "{address:x}");
        }
    }

    #[test]
    fn the_program_runs_on_when_its_code_was_let_go() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(code(&maps, unmap_code as *const () as usize).is_some());
        unmap_code();
        assert_eq!("12".parse(), Ok(12));
    }
}
