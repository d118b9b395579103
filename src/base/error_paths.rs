//! Error messages with and without the folders of the files that they name.

use std::fmt::Display;
use std::path::PathBuf;

/// An error whose paths are fields, so that a server can print the error without revealing where files are
/// stored.
pub trait ErrorPaths: Display + Sized {
    /// Every path in this error and in the errors that it wraps.
    fn paths_mut(&mut self) -> Vec<&mut PathBuf>;

    /// The message with every path reduced to its file name. A path without a file name (`/`, `..`) stays as
    /// it is.
    fn without_folders(mut self) -> String {
        for path in self.paths_mut() {
            if let Some(name) = path.file_name() {
                *path = PathBuf::from(name);
            }
        }
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unreadable(PathBuf);

    impl Display for Unreadable {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}: cannot be read", self.0.display())
        }
    }

    impl ErrorPaths for Unreadable {
        fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
            vec![&mut self.0]
        }
    }

    #[test]
    fn removes_the_folder_and_keeps_the_file_name() {
        assert_eq!(Unreadable("/srv/my videos/a: b.mp4".into()).without_folders(), "a: b.mp4: cannot be read");
        assert_eq!(Unreadable("a.mp4".into()).without_folders(), "a.mp4: cannot be read");
        assert_eq!(Unreadable("/".into()).without_folders(), "/: cannot be read");
    }
}
