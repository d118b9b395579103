//! Rules for the whole source tree: layers, names, messages and comments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Name of the index crate in [`EDGES`]. Code names it `reelseek_index`.
const INDEX: &str = "reelseek_index";

/// Each room of `src/` and the rooms that it may use. The tour in `src/lib.rs` explains the layers.
const EDGES: [(&str, &[&str]); 11] = [
    ("base", &[]),
    ("media", &["base"]),
    ("encode", &["base", "media"]),
    ("features", &["base"]),
    ("gmf", &["base", "features", INDEX]),
    ("collection", &["base", "media", "encode", "gmf", INDEX]),
    ("search", &["base", "media", "encode", "gmf", "collection", INDEX]),
    ("ingest", &["base", "media", "encode", "features", "gmf", "collection", "search", INDEX]),
    ("research", &["base", "media", "encode", "features", "gmf", "collection", "search", "ingest", INDEX]),
    ("serve", &["base", "media", "encode", "gmf", "collection", "search", "ingest", INDEX]),
    (
        "cli",
        &["base", "media", "encode", "features", "gmf", "collection", "search", "ingest", "research", "serve", INDEX],
    ),
];

/// The wings (modules) of `serve` in order. Each uses only wings before it, so that there is no circle.
const SERVE_WINGS: [&str; 12] = [
    "limits",
    "error",
    "observe",
    "admission",
    "guard",
    "connection",
    "options",
    "snapshot",
    "advice",
    "api",
    "state",
    "router",
];

/// Files of lower rooms than `cli` and `serve` whose strings may contain flags, and why.
const FLAGS_ALLOWED: &[(&str, &str)] = &[("src/research/eval/report.rs", "custom properties of CSS")];

const MAX_COLUMNS: usize = 110;

/// Commands of the program. Messages of lower rooms than `cli` and `serve` must not name them.
const COMMANDS: [&str; 18] = [
    "index",
    "search",
    "serve",
    "info",
    "verify",
    "compact",
    "remove",
    "quality",
    "kinds",
    "train",
    "eval",
    "dataset",
    "extract",
    "fold",
    "encoders",
    "completions",
    "calibrate",
    "help",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// The room of a file: the folder below `src/`, or `index` for the index crate.
fn room(file: &str) -> &str {
    let mut parts = file.split('/');
    match (parts.next(), parts.next()) {
        (Some("src"), Some(room)) => room.trim_end_matches(".rs"),
        (Some(top), _) => top,
        (None, _) => "",
    }
}

/// A parsed source file without its tests.
struct Source {
    /// Path relative to the repository.
    file: String,
    tokens: TokenStream,
}

/// The source files of both crates. Modules and items for tests only are left out.
fn sources() -> Vec<Source> {
    let files = [root().join("src"), root().join("index/src")].iter().flat_map(|f| rust_files(f)).collect::<Vec<_>>();
    let mut test_modules = BTreeSet::new();
    let mut parsed = Vec::new();
    for path in files {
        let tokens = TokenStream::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy();
        let folder = match &*stem {
            "mod" | "lib" | "main" => path.parent().unwrap().to_owned(),
            _ => path.with_extension(""),
        };
        let mut modules = Vec::new();
        let tokens = without_tests(tokens, &mut modules);
        test_modules.extend(modules.iter().map(|module| folder.join(module)));
        parsed.push((path, tokens));
    }
    let is_test = |path: &Path| path.ancestors().any(|part| test_modules.contains(&part.with_extension("")));
    let kept = parsed.into_iter().filter(|(path, _)| !is_test(path));
    kept.map(|(path, tokens)| Source { file: relative(&path), tokens }).collect()
}

/// The tokens without doc comments and without items behind `#[cfg(test)]`. Collects the names of test
/// modules in files.
fn without_tests(tokens: TokenStream, modules: &mut Vec<String>) -> TokenStream {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if let TokenTree::Punct(hash) = &token
            && hash.as_char() == '#'
            && let Some(TokenTree::Group(attribute)) = tokens.peek()
        {
            let text = attribute.stream().to_string().replace(' ', "");
            if text.starts_with("doc=") {
                tokens.next();
                continue;
            }
            if text == "cfg(test)" {
                let mut before = String::new();
                for token in tokens.by_ref() {
                    match token {
                        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => break,
                        TokenTree::Punct(end) if end.as_char() == ';' => {
                            modules.push(before);
                            break;
                        }
                        token => before = token.to_string(),
                    }
                }
                continue;
            }
        }
        kept.push(match token {
            TokenTree::Group(group) => {
                let inner = without_tests(group.stream(), modules);
                TokenTree::Group(proc_macro2::Group::new(group.delimiter(), inner))
            }
            token => token,
        });
    }
    kept.into_iter().collect()
}

/// The names that follow a path such as `crate::`, also in braces.
fn names_after(path: &[&str], tokens: TokenStream, names: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            names_after(path, group.stream(), names);
        }
        // A name and the two colons after it are three tokens.
        let is_at = |(part, name): (usize, &&str)| matches!(tokens.get(i + 3 * part), Some(TokenTree::Ident(found)) if found == name);
        if !path.iter().enumerate().all(is_at) {
            continue;
        }
        match tokens.get(i + 3 * path.len()) {
            Some(TokenTree::Ident(name)) => {
                names.insert(name.to_string());
            }
            Some(TokenTree::Group(list)) => {
                let list: Vec<TokenTree> = list.stream().into_iter().collect();
                let items = list.split(|t| matches!(t, TokenTree::Punct(comma) if comma.as_char() == ','));
                names.extend(items.filter_map(|item| item.first().map(ToString::to_string)));
            }
            _ => {}
        }
    }
}

/// The rooms that the code names, and [`INDEX`] if it names that crate.
fn used_rooms(tokens: TokenStream, used: &mut BTreeSet<String>) {
    names_after(&["crate"], tokens.clone(), used);
    if tokens.to_string().split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == INDEX) {
        used.insert(INDEX.to_owned());
    }
}

fn string_literals(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Literal(literal) if literal.to_string().contains('"') => found.push(literal.to_string()),
            TokenTree::Group(group) => string_literals(group.stream(), found),
            _ => {}
        }
    }
}

/// Names of the structs, enums, traits and type aliases. Associated types (inside of `impl` and `trait`) are
/// left out.
fn type_names(tokens: TokenStream, associated: bool, names: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut body_of_impl = false;
    for (i, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(keyword) => {
                let keyword = keyword.to_string();
                body_of_impl |= keyword == "impl" || keyword == "trait";
                let defines =
                    matches!(&*keyword, "struct" | "enum" | "trait" | "union") || keyword == "type" && !associated;
                if let (true, Some(TokenTree::Ident(name))) = (defines, tokens.get(i + 1)) {
                    names.push(name.to_string());
                }
            }
            TokenTree::Group(group) => {
                let brace = group.delimiter() == Delimiter::Brace;
                type_names(group.stream(), brace && body_of_impl, names);
                body_of_impl &= !brace;
            }
            _ => {}
        }
    }
}

fn names_flag(literal: &str) -> bool {
    let flag = |(at, _): (usize, &str)| literal[at + 2..].starts_with(|c: char| c.is_ascii_lowercase());
    let command = |(at, name): (usize, &str)| {
        let rest = &literal[at + name.len()..];
        COMMANDS.iter().any(|c| rest.strip_prefix(c).is_some_and(|r| !r.starts_with(|c: char| c.is_alphanumeric())))
    };
    literal.match_indices("--").any(flag) || literal.match_indices("reelseek ").any(command)
}

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let known: BTreeSet<&str> = EDGES.iter().map(|(room, _)| *room).chain(["lib", "main", "index"]).collect();
    let mut faults = Vec::new();
    for Source { file, tokens } in sources() {
        let room = room(&file);
        assert!(known.contains(room), "{file}: room {room} is not in the table");
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == room) else { continue };
        let mut used = BTreeSet::new();
        used_rooms(tokens, &mut used);
        for used in used.iter().filter(|used| EDGES.iter().any(|(known, _)| known == used) || *used == INDEX) {
            if used != room && !allowed.contains(&used.as_str()) {
                faults.push(format!("{file} uses {used}, which {room} may not use"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_wings_of_serve_use_only_the_wings_before_them() {
    let mut faults = BTreeSet::new();
    for Source { file, tokens } in sources().into_iter().filter(|source| room(&source.file) == "serve") {
        let wing = file.split('/').nth(2).unwrap().trim_end_matches(".rs");
        let Some(rank) = SERVE_WINGS.iter().position(|known| *known == wing) else { continue };
        let mut used = BTreeSet::new();
        names_after(&["crate", "serve"], tokens, &mut used);
        let later = SERVE_WINGS[rank + 1..].iter().filter(|later| used.contains(**later));
        faults.extend(later.map(|later| (wing.to_owned(), *later)));
    }
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn messages_below_cli_and_serve_name_no_flag_and_no_command() {
    let mut faults = Vec::new();
    for Source { file, tokens } in sources() {
        let exempt = ["cli", "serve", "main"].contains(&room(&file));
        if exempt || FLAGS_ALLOWED.iter().any(|(allowed, _)| *allowed == file) {
            continue;
        }
        let mut literals = Vec::new();
        string_literals(tokens, &mut literals);
        faults.extend(literals.into_iter().filter(|l| names_flag(l)).map(|literal| format!("{file}: {literal}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_command_line_prints_through_one_module() {
    // `cli/terminal` escapes everything that it prints.
    let macros = ["print", "println", "eprint", "eprintln", "write", "writeln", "dbg"].map(|name| format!(" {name} !"));
    let mut faults = Vec::new();
    for Source { file, tokens } in sources().into_iter().filter(|source| room(&source.file) == "cli") {
        let text = format!(" {tokens}").replace(['(', '{', '\n'], " ");
        if file != "src/cli/terminal.rs" && macros.iter().any(|name| text.contains(name)) {
            faults.push(file);
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn every_type_name_is_unique_in_the_workspace() {
    let mut files = BTreeMap::<String, Vec<String>>::new();
    for Source { file, tokens } in sources() {
        let mut names = Vec::new();
        type_names(tokens, false, &mut names);
        names.into_iter().for_each(|name| files.entry(name).or_default().push(file.clone()));
    }
    let exempt = |name: &str| name == "Error";
    let faults: Vec<String> = files
        .iter()
        .filter(|(name, f)| f.len() > 1 && !exempt(name))
        .map(|(name, f)| format!("{name}: {f:?}"))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn comments_have_at_most_110_columns() {
    let mut faults = Vec::new();
    for folder in ["src", "index", "tests", "benches", "examples", "fuzz"].map(|folder| root().join(folder)) {
        for path in if folder.exists() { rust_files(&folder) } else { Vec::new() } {
            let file = relative(&path);
            for (i, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
                // Rows of tables and lines of JSON cannot be wrapped.
                let body = line.trim_start().trim_start_matches("//").trim_start_matches(['/', '!', ' ']);
                let is_row = body.starts_with(['|', '{']);
                if line.trim_start().starts_with("//") && !is_row && line.chars().count() > MAX_COLUMNS {
                    faults.push(format!("{file}:{}", i + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_index_crate_does_not_use_the_engine() {
    for Source { file, tokens } in sources().into_iter().filter(|source| room(&source.file) == "index") {
        assert!(!tokens.to_string().contains("reelseek ::"), "{file}");
    }
}

#[test]
fn two_files_of_the_engine_have_unsafe_code() {
    let has = |file: &PathBuf| std::fs::read_to_string(file).unwrap().contains("allow(unsafe_code");
    let files: Vec<PathBuf> = rust_files(&root().join("src")).into_iter().filter(has).collect();
    assert_eq!(files, ["allocator", "linalg"].map(|name| root().join(format!("src/base/{name}.rs"))));
}

/// Names of tests in the text: words of lower case with underscores between backticks.
fn named_tests(text: &str) -> BTreeSet<&str> {
    let is_name = |code: &&str| {
        code.contains('_') && code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    text.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn every_test_that_the_security_policy_names_exists() {
    let policy = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let files = ["src", "index", "tests"].iter().flat_map(|folder| rust_files(&root().join(folder)));
    let code: Vec<String> = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let is_test = |name: &str| {
        let head = format!("fn {name}(");
        let mut before = code.iter().filter_map(|text| text.split_once(&head)).map(|(before, _)| before.trim_end());
        before.any(|before| before.trim_end_matches("async").trim_end().ends_with(']'))
    };
    let named = named_tests(&policy);
    let missing: Vec<&&str> = named.iter().filter(|name| !is_test(name)).collect();
    assert!(named.len() > 20 && missing.is_empty(), "{} tests are named; these do not exist: {missing:?}", named.len());
}

#[test]
fn the_scanner_finds_uses_names_and_flags_outside_of_tests() {
    let text = r##"
        use crate::{media, encode::Layout};
        /// `--no`
        pub struct Outer<T> { inner: T }
        impl Iterator for Outer { type Item = u8; fn f() -> T { crate::gmf::fit("a --flag", 'x') } }
        type Alias = Outer<reelseek_index::Hit>;
        #[cfg(test)] mod tests { struct Hidden; use crate::cli; }
        #[cfg(test)] pub(crate) mod reference;
    "##;
    let mut modules = Vec::new();
    let tokens = without_tests(TokenStream::from_str(text).unwrap(), &mut modules);
    assert_eq!(modules, ["reference"]);
    let mut used = BTreeSet::new();
    used_rooms(tokens.clone(), &mut used);
    assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), ["encode", "gmf", "media", INDEX]);
    let mut names = Vec::new();
    type_names(tokens.clone(), false, &mut names);
    assert_eq!(names, ["Outer", "Alias"]);
    let mut literals = Vec::new();
    string_literals(tokens, &mut literals);
    assert_eq!(literals, ["\"a --flag\""]);
    assert!(names_flag("a --flag") && names_flag("`reelseek info --videos`") && names_flag("run `reelseek index`"));
    assert!(!names_flag("a -- b") && !names_flag("reelseek indexes") && !names_flag("reelseek's own"));
}
