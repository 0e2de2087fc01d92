//! The node binary: see [`base_ha::cli`].

fn main() -> std::process::ExitCode {
    base_ha::cli::main()
}
