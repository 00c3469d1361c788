//! See [`diptych_cli::run`].

fn main() -> std::process::ExitCode {
    diptych_cli::run(std::env::args_os())
}
