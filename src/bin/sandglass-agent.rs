//! The agent of a session pod: `serve` is PID 1; `install` and `copy` are what init containers do; `sftp` is what `serve`
//! starts for file transfers.

use sandglass::agent;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: sandglass-agent serve | install FOLDER | copy FROM TO | sftp
Started by the Sandglass controller in session pods; not for use by hand.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["serve"] => {
            agent::log_to_standard_error();
            agent::serve().map(|code| u8::try_from(code).unwrap_or(1)).map_err(|failure| failure.to_string())
        }
        ["install", folder] => agent::install(Path::new(folder)).map(|()| 0).map_err(|failure| format!("failed to install: {failure}")),
        ["copy", from, to] => {
            agent::copy_tree(Path::new(from), Path::new(to)).map(|()| 0).map_err(|failure| format!("failed to copy: {failure}"))
        }
        ["sftp"] => agent::serve_sftp().map(|()| 0).map_err(|failure| format!("failed to serve: {failure}")),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(0)
        }
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("sandglass-agent: {message}");
            ExitCode::from(2)
        }
    }
}
