//! Messages of other rooms name files by their whole path, which is nobody's business who only asks over the network.

use std::path::Path;

use crate::serve::state::App;

impl App {
    /// A message without the folders in it, unless the server is told to show them. `file` is the one that it is about.
    pub(crate) fn shown(&self, message: &str, file: Option<&Path>) -> String {
        if self.options.show_paths {
            return message.to_owned();
        }
        let mut text = message.to_owned();
        // Where these lie is known, whatever their names look like: blanks and colons too.
        let library = self.options.library.iter().chain([&self.options.index]);
        for known in file.into_iter().chain(library.map(std::path::PathBuf::as_path)) {
            for path in [Some(known.to_owned()), std::path::absolute(known).ok(), known.canonicalize().ok()]
                .into_iter()
                .flatten()
            {
                if let (Some(folder), Some(name)) =
                    (path.parent().filter(|folder| folder.is_absolute()), path.file_name())
                {
                    text = text.replace(&*path.to_string_lossy(), &name.to_string_lossy());
                    text = text.replace(&format!("{}{}", folder.to_string_lossy(), std::path::MAIN_SEPARATOR), "");
                }
            }
        }
        hide(&text)
    }
}

/// Of whatever looks like an absolute path, its last part.
fn hide(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    let begins = |before: Option<char>| before.is_none_or(|c| c.is_whitespace() || "\"'`(:=<[".contains(c));
    while let Some(at) = rest.find('/') {
        let before = rest[..at].chars().next_back().or(shown.chars().next_back().filter(|_| at == 0));
        let path = &rest[at..];
        let end = path.find(|c: char| c.is_whitespace() || "\"'`():,;<>[]".contains(c)).unwrap_or(path.len());
        shown.push_str(&rest[..at]);
        let (path, after) = path.split_at(end);
        // `//` is an address's, and a lone `/` a fraction's.
        if begins(before) && !path.starts_with("//") && path[1..].contains('/') {
            shown.push_str(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
        } else {
            shown.push_str(path);
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_folders_and_nothing_else_changes() {
        for (text, shown) in [
            ("/home/me/a.mp4: no video", "a.mp4: no video"),
            ("see \"/srv/x/y.json\", and (/a/b/c)", "see \"y.json\", and (c)"),
            ("file:/a/b.mp4: bad", "file:b.mp4: bad"),
            ("1/2 of http://example.org/a/b and n/a", "1/2 of http://example.org/a/b and n/a"),
            ("in ~/x/y or rel/ative/path", "in ~/x/y or rel/ative/path"),
            ("/ and /tmp", "/ and /tmp"),
            ("/a/b//c/ ends", "c ends"),
        ] {
            assert_eq!(hide(text), shown);
        }
    }
}
