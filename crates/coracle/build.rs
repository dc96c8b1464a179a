//! How the program is linked.

fn main() {
    // Sixty thousand pointers of the program's tables are corrected at each
    // start. Packed, what says where they are takes 60 KiB in place of 1.4 MiB,
    // all of which is read and stays mapped. The C library reads that form
    // since glibc 2.36, which is Debian 12's.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    println!("cargo::rerun-if-changed=build.rs");
}
