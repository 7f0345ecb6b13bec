//! Paths in a recipe: made absolute when read, and spelled for another folder when written.
//!
//! Refuses to know: what is in the files.

use std::path::{Component, Path, PathBuf};

/// `given`, starting at `folder` unless it is absolute; `..` and links in the folders are resolved where they exist,
/// the file's own name is kept even when it is a link (its ending says what it is).
pub(super) fn absolute(folder: &Path, given: &Path) -> PathBuf {
    let joined = folder.join(given);
    let joined = std::path::absolute(&joined).unwrap_or(joined);
    match (joined.parent(), joined.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => resolved(&joined),
    }
}

/// The folder of a file, absolute.
pub(super) fn folder_of(file: &Path) -> PathBuf {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    resolved(&std::path::absolute(parent).unwrap_or(parent.to_path_buf()))
}

/// A folder with `..` and links resolved as far as it exists.
pub(super) fn resolved(folder: &Path) -> PathBuf {
    if let Ok(canonical) = folder.canonicalize() {
        return canonical;
    }
    match (folder.parent(), folder.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => folder.to_path_buf(),
    }
}

/// The absolute `path` as seen from the absolute `folder`, with forward slashes; absolute when the two have no folder
/// in common. It starts with `./` or `../` only where it must.
pub(super) fn seen_from(folder: &Path, path: &Path) -> String {
    let (ours, theirs): (Vec<Component<'_>>, Vec<Component<'_>>) = (folder.components().collect(), path.components().collect());
    let shared = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let is_name = |component: &Component<'_>| matches!(component, Component::Normal(_));
    if !ours[..shared].iter().any(is_name) {
        return path.display().to_string();
    }
    let up = ours[shared..].iter().map(|_| "..".to_string());
    let down = theirs[shared..].iter().map(|component| component.as_os_str().to_string_lossy().into_owned());
    let parts: Vec<String> = up.chain(down).collect();
    if parts.is_empty() { ".".to_string() } else { parts.join("/") }
}
