//! Escapes characters that steer a terminal, end a line, reorder the text around them, or are invisible.
//! Names of files, titles, filters and the messages of ffmpeg may contain them. The command line and the log
//! apply these functions where they print, so that no message is forgotten.

use std::borrow::Cow;

/// Whether a character is escaped: control characters (C0, DEL, C1), line and paragraph separators, controls
/// of text direction, and other invisible format characters. The joiners U+200C and U+200D are parts of words
/// and of emoji, and are not escaped.
fn is_escaped(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Replaces each escaped character by what `escape` appends.
fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_escaped(c) {
            true => escape(&mut line, c),
            false => line.push(c),
        }
    }
    Cow::Owned(line)
}

/// The text as a part of one line, with escapes as in Rust: `\n`, `\u{1b}`.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |line, c| match c {
        '\t' | '\n' | '\r' => line.extend(c.escape_default()),
        c => line.extend(c.escape_unicode()),
    })
}

/// A JSON text with escapes in its strings, such as `\u009b`. Its value is the same. The text must have no
/// line ends and tabs between its values.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    escaped(text, |json, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            json.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether text has no character that steers a terminal, ends a line or reorders text. Independent of
    /// the implementation.
    pub(crate) fn is_harmless(text: &str) -> bool {
        let harmful = |c: char| {
            c.is_control()
                || "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{feff}".contains(c)
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c)
        };
        !text.chars().any(harmful)
    }

    /// Text in which half of the characters are harmful.
    pub(crate) fn hostile_text() -> impl Strategy<Value = String> {
        let harmful = "[\u{0}-\u{1f}\u{7f}-\u{9f}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2066}-\u{2069}\u{feff}\"\\\\]";
        let characters = prop_oneof![harmful, any::<char>().prop_map(String::from)];
        prop::collection::vec(characters, 0..40).prop_map(|parts| parts.concat())
    }

    #[test]
    fn control_characters_are_escaped_and_words_are_kept() {
        assert_eq!(line("a\u{1b}[2Jb\r\n\tc\u{9b}"), r"a\u{1b}[2Jb\r\n\tc\u{9b}");
        assert_eq!(line("\u{202e}gpj.4pm"), r"\u{202e}gpj.4pm");
        for kept in ["Grüße 日本\u{3000}語.mp4", "u\u{308}", "👩\u{200d}🚀", "می\u{200c}خواهم", r"C:\videos"]
        {
            assert!(matches!(line(kept), Cow::Borrowed(text) if text == kept), "{kept}");
        }
    }

    proptest! {
        #[test]
        fn every_line_is_harmless(text in hostile_text()) {
            prop_assert!(is_harmless(&line(&text)));
        }

        #[test]
        fn json_is_harmless_and_keeps_its_value(text in hostile_text()) {
            let value = serde_json::json!({ &text: [&text] });
            let line = json(&value.to_string()).into_owned();
            prop_assert!(is_harmless(&line));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
        }
    }
}
