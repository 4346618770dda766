//! The files the agent leaves for the people in the session, in its run folder.

use super::AgentError;
use crate::link::settings::AgentSettings;
use std::path::Path;

/// Writes `stripped-env` and `known_hosts`, and makes a home for users without one.
///
/// # Errors
/// [`AgentError::Folder`] when the folder cannot be written.
pub fn prepare(settings: &AgentSettings) -> Result<(), AgentError> {
    let folder = Path::new(&settings.run_folder);
    let attempt = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder.join("home"))?;
        std::fs::write(folder.join("stripped-env"), lines(&settings.stripped_environment))?;
        std::fs::write(folder.join("known_hosts"), lines(&settings.known_hosts))
    };
    attempt().map_err(|source| AgentError::Folder { path: folder.display().to_string(), source })
}

fn lines(items: &[String]) -> String {
    items.iter().flat_map(|item| [item.as_str(), "\n"]).collect()
}
