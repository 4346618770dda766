//! The kubectl plugin: `kubectl sandglass`. What it does lives in the library.

use sandglass::cli::kubectl;
use std::process::ExitCode;

fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("kubectl sandglass: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    kubectl::answer_completion();
    kubectl::run()
}
