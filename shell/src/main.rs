//! The node binary: see [`base_ha::cli`].

#[cfg(base_ha_mutants)]
compile_error!("a node is not built with planted mutants in it: they are for the simulator");

fn main() -> std::process::ExitCode {
    base_ha::cli::main()
}
