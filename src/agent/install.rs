//! The copying that init containers do: neither the agent's image nor a tools image needs a shell.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Copies this program to `folder/sandglass-agent`, executable by everybody, writable by nobody.
///
/// # Errors
/// With the path that could not be read or written.
pub fn install(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let target = folder.join("sandglass-agent");
    std::fs::copy(std::env::current_exe()?, &target)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o555))
}

/// Copies everything below `from` into `to`: files with their modes, folders, symbolic links as they are.
///
/// # Errors
/// At the first thing that could not be read or written.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).map_err(|failure| with_path(&failure, from))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        let copied = if kind.is_dir() {
            copy_tree(&source, &target)
        } else if kind.is_symlink() {
            std::fs::read_link(&source).and_then(|link| symlink(link, &target))
        } else {
            std::fs::copy(&source, &target).map(drop)
        };
        copied.map_err(|failure| with_path(&failure, &source))?;
    }
    Ok(())
}

fn with_path(failure: &io::Error, path: &Path) -> io::Error {
    io::Error::new(failure.kind(), format!("{}: {failure}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_copied_with_modes_and_links() {
        let folder = std::env::temp_dir().join(format!("sandglass-copy-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("to"));
        std::fs::create_dir_all(from.join("bin")).expect("folder");
        std::fs::write(from.join("bin/tool"), "x").expect("file");
        std::fs::set_permissions(from.join("bin/tool"), std::fs::Permissions::from_mode(0o755)).expect("mode");
        symlink("tool", from.join("bin/alias")).expect("link");
        copy_tree(&from, &to).expect("copied");
        assert_eq!(std::fs::metadata(to.join("bin/tool")).expect("copied").permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::read_link(to.join("bin/alias")).expect("copied"), Path::new("tool"));
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
