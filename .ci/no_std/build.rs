//! Links without the start-up files: the entry point is this program's own.
//! The C library is there for memcpy and its like only.

fn main() {
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
    println!("cargo::rustc-link-arg-bins=-lc");
    println!("cargo::rerun-if-changed=build.rs");
}
