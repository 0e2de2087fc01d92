//! The node binary: see [`base_ha::cli`].

fn main() {}
