//! What no reviewer should have to look for: which module may use which, and what may stand in one place
//! only. It reads the sources as text.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which modules a module may use, in layers: each uses only those above it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("id", &["time"]),
    ("error", &["id"]),
    ("config", &["error"]),
    ("count", &["error", "time"]),
    ("outbound", &["error"]),
    ("scope", &[]),
    ("net", &["error"]),
    ("secret", &["error"]),
    ("event", &["count", "error", "id", "secret", "time"]),
    ("metrics", &["count", "error", "event"]),
    ("limit", &["error", "time"]),
    ("watch", &["error", "limit", "time"]),
    ("token", &["error", "id", "limit", "net", "scope", "secret", "time", "watch"]),
    ("principal", &["error", "event", "id", "limit", "net", "scope", "secret", "time", "token", "watch"]),
    (
        "store",
        &[
            "count",
            "error",
            "event",
            "id",
            "limit",
            "net",
            "outbound",
            "principal",
            "scope",
            "secret",
            "time",
            "token",
            "watch",
        ],
    ),
    (
        "auth",
        &[
            "count",
            "error",
            "event",
            "id",
            "limit",
            "net",
            "principal",
            "scope",
            "secret",
            "store",
            "time",
            "token",
            "watch",
        ],
    ),
    ("audit", &["count", "error", "event", "id", "outbound", "principal", "secret", "store", "time"]),
    (
        "manage",
        &[
            "count",
            "error",
            "event",
            "id",
            "limit",
            "metrics",
            "net",
            "principal",
            "scope",
            "secret",
            "store",
            "time",
            "token",
            "watch",
        ],
    ),
    (
        "jwt",
        &[
            "auth",
            "count",
            "error",
            "event",
            "id",
            "metrics",
            "outbound",
            "principal",
            "scope",
            "secret",
            "time",
        ],
    ),
    // Carries out what `limit` and `store` ask of a server; nothing of keyward knows it.
    ("redis", &["error", "limit", "secret", "store", "time"]),
    ("layer", &["auth", "count", "error", "event", "id", "limit", "net", "principal", "secret"]),
    ("extract", &["auth", "count", "error", "event", "id", "layer", "principal", "secret"]),
    (
        "api",
        &[
            "audit",
            "auth",
            "error",
            "event",
            "id",
            "layer",
            "limit",
            "manage",
            "net",
            "principal",
            "scope",
            "time",
            "token",
        ],
    ),
    (
        "testing",
        &[
            "auth",
            "error",
            "event",
            "id",
            "jwt",
            "limit",
            "manage",
            "net",
            "principal",
            "scope",
            "secret",
            "store",
            "time",
            "token",
            "watch",
        ],
    ),
];

/// What the crate's root exports, and where it comes from.
const ROOT: &[(&str, &str)] = &[
    ("AuthError", "error"),
    ("AuthErrorKind", "error"),
    ("ConfigError", "error"),
    ("NotOwner", "error"),
    ("TokenId", "id"),
    ("UserId", "id"),
    ("AuthLayer", "layer"),
    ("OwnerLayer", "layer"),
    ("RequireLayer", "layer"),
    ("TokenManager", "manage"),
    ("AdminProof", "principal"),
    ("Checked", "principal"),
    ("Owned", "principal"),
    ("Principal", "principal"),
    ("ApiKey", "secret"),
    ("Owner", "store"),
];

/// A source file without its comments and tests.
struct Source {
    /// As in `src/store/memory.rs`.
    path: String,
    /// As in `store`; `lib` for the root.
    module: String,
    /// The lines of code. Line numbers are those of the file.
    code: Vec<String>,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        let module = name["src/".len()..].split(['/', '.']).next().unwrap().to_owned();
        let text = fs::read_to_string(path).unwrap();
        let mut code: Vec<_> = text.lines().map(without_comment).collect();
        let tests = (1..code.len()).find(|at| {
            code[at - 1].starts_with("#[cfg(test)]")
                && code[*at].starts_with("mod ")
                && code[*at].ends_with('{')
        });
        code.truncate(tests.map_or(code.len(), |at| at - 1));
        Self { path: name, module, code }
    }

    /// The lines in which `what` stands, as `file:line: text`.
    fn lines_with(&self, what: &str) -> impl Iterator<Item = String> {
        let hits = self.code.iter().enumerate().filter(move |(_, line)| has_word(line, what));
        hits.map(|(at, line)| format!("{}:{}: {}", self.path, at + 1, line.trim()))
    }

    /// The modules that this file uses, each with a line that does.
    fn uses(&self) -> Vec<(String, String)> {
        let mut uses = Vec::new();
        let text = self.code.join("\n");
        for (start, _) in text.match_indices("crate::") {
            let doc_only = text[..start].trim_end_matches("use ").ends_with("#[cfg(doc)]\n");
            let inside = text[..start].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
            if doc_only || inside {
                continue;
            }
            let line = text[..start].matches('\n').count() + 1;
            for name in first_segments(&text[start + "crate::".len()..]) {
                let module = ROOT.iter().find(|(item, _)| *item == name).map_or(&*name, |(_, module)| module);
                uses.push((module.to_owned(), format!("{}:{line}", self.path)));
            }
        }
        uses.retain(|(module, _)| *module != self.module);
        uses
    }
}

/// A line without its comment and without the text of its strings.
fn without_comment(line: &str) -> String {
    let mut code = String::new();
    let (mut quoted, mut chars) = (false, line.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            '"' if code.ends_with('\'') => {}
            '"' => quoted = !quoted,
            '\\' if quoted => drop(chars.next()),
            _ => {}
        }
        code.push(c);
    }
    code.truncate(code.trim_end().len());
    code
}

/// Whether `what` stands in `line` as a word of its own.
fn has_word(line: &str, what: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(what).any(|(at, found)| {
        let before = line[..at].chars().next_back().is_some_and(is_name);
        let after = line[at + found.len()..].chars().next().is_some_and(is_name);
        let (starts, ends) = (what.starts_with(is_name), what.ends_with(is_name));
        !(starts && before || ends && after)
    })
}

/// The first names of the paths in `a::b` or `{a, b::{c, d}}`.
fn first_segments(path: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(tree) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut at_start) = (1, Vec::new(), true);
    for (at, c) in tree.char_indices() {
        if at_start && !c.is_whitespace() {
            names.push(name(&tree[at..]));
            at_start = false;
        }
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => at_start = true,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// All files of the library that are no tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    files.sort();
    files.retain(|file| !file.ends_with("tests.rs"));
    assert!(files.len() > 30, "the sources are where they are looked for");
    files.iter().map(|file| Source::read(root, file)).collect()
}

/// Every line with one of `words`, except in the files of `allowed`.
fn lines_with(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let sources = sources();
    let others = sources.iter().filter(|source| !allowed.iter().any(|path| source.path.starts_with(path)));
    others
        .flat_map(|source| words.iter().flat_map(|word| source.lines_with(word).collect::<Vec<_>>()))
        .collect()
}

fn assert_none(what: &str, lines: &[String]) {
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}

#[test]
fn the_reader_of_sources_reads_them_right() {
    for (line, code) in [
        ("let a = 1; // crate::b", "let a = 1;"),
        ("/// crate::b", ""),
        (r#"let a = "// no comment"; // one"#, r#"let a = "// no comment";"#),
        (r#"let a = "\" // no"; b"#, r#"let a = "\ // no"; b"#),
        (r#"let a = '"'; // c"#, r#"let a = '"';"#),
    ] {
        assert_eq!(without_comment(line), code, "{line}");
    }
    for (path, names) in [
        ("a::b", &["a"][..]),
        ("{a, b::{c, d}, e::f}", &["a", "b", "e"]),
        ("{\n    a::{b, c},\n    d,\n};\nuse x::{y}", &["a", "d"]),
    ] {
        assert_eq!(first_segments(path), names, "{path}");
    }
    assert!(has_word("a.unwrap()", ".unwrap()") && !has_word("unsafe_code", "unsafe"));
}

#[test]
fn modules_use_only_those_below_them() {
    let order: BTreeMap<_, _> = ALLOWED.iter().enumerate().map(|(at, (module, _))| (*module, at)).collect();
    for (module, allowed) in ALLOWED {
        for other in *allowed {
            assert!(order[other] < order[module], "{module} must stand after {other}: there are no cycles");
        }
    }
    let mut unexpected = Vec::new();
    let mut seen = BTreeSet::new();
    for source in sources().iter().filter(|source| source.module != "lib") {
        let allowed = ALLOWED.iter().find(|(module, _)| *module == source.module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{} has no place in the order", source.path));
        for (module, line) in source.uses() {
            if !allowed.contains(&&*module) {
                unexpected.push(format!("{line}: {} must not use {module}", source.module));
            }
            seen.insert((source.module.clone(), module));
        }
    }
    assert_none("uses against the order", &unexpected);
    assert!(seen.len() > 60, "imports were found: {}", seen.len());
}

#[test]
fn credentials_are_read_in_one_place() {
    let words = ["AUTHORIZATION", "X_API_KEY", "x-api-key", "authorization", "Authorization"];
    // The isolation check and the kit are clients: they send a key.
    let allowed = ["src/auth/credential.rs", "src/testing/isolation.rs", "src/testing/kit.rs"];
    assert_none("the credential headers are read elsewhere", &lines_with(&words, &allowed));
    assert_eq!(
        lines_with(&["x-api-key"], &["src/auth/", "src/api/", "src/layer/"]).len(),
        2,
        "where it is sent, and where a caller without one is made"
    );
}

#[test]
fn the_clock_is_read_in_one_place() {
    let words = ["SystemTime::now", "Instant::now", "clock_gettime", "Utc::now", "UNIX_EPOCH.elapsed"];
    let others = lines_with(&words, &["src/time.rs"]);
    let sources = sources();
    let unexplained: Vec<_> = others
        .into_iter()
        .filter(|hit| {
            let (path, line) =
                hit.split_once(':').map(|(path, rest)| (path, rest.split(':').next())).unwrap();
            let line: usize = line.unwrap().parse().unwrap();
            let source = sources.iter().find(|source| source.path == path).unwrap();
            let above = &source.code[line.saturating_sub(4)..line];
            let explained =
                above.iter().any(|line| line.contains("#[expect(clippy::disallowed_methods, reason"));
            !(explained && path.starts_with("src/store/sqlite/"))
        })
        .collect();
    assert_none("the clock is read elsewhere", &unexplained);
}

#[test]
fn a_library_reads_no_environment_and_spawns_nothing() {
    assert_none(
        "the environment is read",
        &lines_with(&["env::var", "env::vars", "env::var_os", "env::vars_os", "env!"], &["src/config.rs"]),
    );
    let words = ["tokio::spawn", "spawn_blocking", "task::spawn"];
    // The store's threads are its own, named in its documentation; the suite for stores is a test, and so is the issuer.
    let suite = "src/testing/conformance/";
    let threads = ["thread::spawn", "thread::Builder", "thread::scope"];
    // Those of the PostgreSQL store as well: its connections, and what must be done though its caller gives up.
    let postgres = "src/store/postgres/";
    assert_none("a task is spawned", &lines_with(&words, &[suite, "src/testing/issuer.rs", postgres]));
    assert_none("a thread is started", &lines_with(&threads, &["src/store/sqlite/", suite]));
}

#[test]
fn no_web_token_is_read_without_its_signature() {
    // Its verifiers are used; what reads tokens believes more than it should, or everything.
    let words =
        ["jsonwebtoken::decode", "decode_header", "insecure_decode", "insecure_decode_claims", "TokenData"];
    assert_none("a token is read by another crate", &lines_with(&words, &[]));
}

#[test]
fn a_store_around_a_store_passes_every_call_on() {
    // A method with a default that is forgotten there would be done by that default, and nobody would notice.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contract = Source::read(root, &root.join("src/store/mod.rs"));
    let methods = contract.code.iter().skip_while(|line| !line.starts_with("pub trait TokenStore"));
    let methods =
        methods.take_while(|line| *line != "}").filter_map(|line| line.strip_prefix("    async fn "));
    let names: Vec<_> = methods.map(|rest| rest.split('(').next().unwrap()).collect();
    let around = Source::read(root, &root.join("src/store/announced.rs"));
    assert!(names.len() > 20, "the methods are where they are looked for: {names:?}");
    for name in names {
        let passes_on = around.lines_with(&format!("self.store.{name}")).count() > 0;
        assert!(passes_on, "src/store/announced.rs does not pass on {name}");
    }
}

#[test]
fn nothing_is_unfinished_or_unsafe() {
    let macros =
        ["todo!", "unimplemented!", "dbg!", "println!", "eprintln!", "print!", "unsafe", "static mut"];
    assert_none("unfinished, unsafe or noisy", &lines_with(&macros, &[]));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    let mut notes = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let marks = ["TODO", "FIXME", "XXX", "HACK"];
        notes.extend(
            text.lines()
                .filter(|line| marks.iter().any(|mark| has_word(line, mark)))
                .map(|line| format!("{}: {line}", file.display())),
        );
    }
    assert_none("notes to oneself", &notes);
}

#[test]
fn nothing_can_panic_by_choice() {
    let words = [".unwrap()", ".expect(", "panic!", "unreachable!", "assert!", "assert_eq!"];
    // Assertions for tests, which report by panicking.
    let allowed = [
        "src/testing/conformance/",
        "src/testing/isolation.rs",
        "src/testing/issuer.rs",
        "src/testing/kit.rs",
    ];
    assert_none("a panic outside of tests", &lines_with(&words, &allowed));
}

#[test]
fn files_and_functions_stay_short() {
    let mut long = Vec::new();
    for source in sources() {
        if source.code.len() > 500 {
            long.push(format!("{}: {} lines", source.path, source.code.len()));
        }
        long.extend(long_functions(&source));
    }
    assert_none("files of more than 500 lines and functions of more than 50", &long);
}

/// By the formatter's indentation: a function ends at the brace below its first letter.
fn long_functions(source: &Source) -> Vec<String> {
    let mut long = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        let is_function = has_word(line, "fn") && !line.trim_end().ends_with(';') && !line.contains("Fn(");
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let length = source.code[at..].iter().position(|line| *line == end).map_or(0, |length| length + 1);
        if is_function && line.trim_start().split(' ').take(4).any(|word| word == "fn") && length > 50 {
            long.push(format!("{}:{}: {length} lines: {}", source.path, at + 1, line.trim()));
        }
    }
    long
}
