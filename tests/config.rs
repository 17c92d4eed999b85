//! Settings from the environment, a file and defaults, as a service's author uses them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{ffi::OsString, fs, net::SocketAddr, path::PathBuf};

use keyward::{
    ConfigError,
    config::{ConfigErrors, Reader, Report, Secret, Source, Sources},
};

const CANARY: &str = "kw-canary-7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N";

#[derive(Debug)]
struct Settings {
    listen: SocketAddr,
    workers: u16,
    debug: bool,
    admins: Vec<String>,
    ports: Vec<u16>,
    secret: Option<Secret>,
    until: Option<String>,
}

impl Settings {
    #[expect(clippy::unnecessary_wraps, reason = "the shape that the reader asks for")]
    fn read(config: &mut Reader) -> Option<Self> {
        Some(Self {
            listen: config.value("listen").or(([127, 0, 0, 1], 3000).into()),
            workers: config.number("workers", 1..=64).or(4),
            debug: config.switch("debug").or(false),
            admins: config.list("admins").or_empty(),
            ports: config.list("net.ports").or_empty(),
            secret: config.secret(("jwt.secret", "JWT_SECRET")).optional(),
            until: config.value("jwt.until").optional(),
        })
    }
}

/// A folder with a settings file, or without one.
struct Place(tempfile::TempDir);

impl Place {
    fn new(file: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        if !file.is_empty() {
            fs::write(place.file(), file).unwrap();
        }
        place
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("shop.toml")
    }

    fn sources(&self, variables: &[(&str, &str)]) -> Sources {
        Sources::new("SHOP_").with_file(self.file()).with_variables(variables.iter().copied())
    }

    fn read(&self, variables: &[(&str, &str)]) -> Result<(Settings, Report), ConfigErrors> {
        self.sources(variables).read(Settings::read)
    }

    /// The mistakes, with the file's folder left out.
    fn mistakes(&self, variables: &[(&str, &str)]) -> Vec<String> {
        let errors = self.read(variables).unwrap_err();
        let folder = format!("{}/", self.0.path().display());
        errors.sentences().iter().map(|sentence| sentence.replace(&folder, "")).collect()
    }
}

#[test]
fn a_variable_wins_over_the_file_and_the_file_over_the_default() {
    let place = Place::new("listen = '0.0.0.0:80'\nworkers = 8\n\n[jwt]\nsecret = 'from the file'\n");
    let variables = [("SHOP_WORKERS", " 16 "), ("SHOP_LISTEN", ""), ("SHOP_DEBUG", " ")];
    let (settings, report) = place.read(&variables).unwrap();
    assert_eq!((settings.workers, settings.debug), (16, false));
    assert_eq!(settings.listen.port(), 80, "an empty variable is as good as none");
    assert_eq!(settings.secret.unwrap().expose(), "from the file");
    let sources: Vec<_> =
        report.entries().iter().map(|entry| (entry.key(), entry.value(), entry.source().clone())).collect();
    let line = |line| Source::File { path: place.file(), line };
    let expected = [
        ("config", None, Source::Unset),
        ("listen", Some("0.0.0.0:80"), line(1)),
        ("workers", Some("16"), Source::Variable("SHOP_WORKERS".to_owned())),
        ("debug", Some("false"), Source::Default),
        ("admins", Some(""), Source::Default),
        ("net.ports", Some(""), Source::Default),
        ("jwt.secret", Some("…"), line(5)),
        ("jwt.until", None, Source::Unset),
    ];
    assert_eq!(sources, expected);
    assert_eq!(report.entries()[6].variable(), "JWT_SECRET");
    assert!(report.entries()[6].is_secret());
}

#[test]
fn nothing_needs_to_be_there_and_only_a_named_file_must() {
    let place = Place::new("");
    let (settings, report) = place.read(&[]).unwrap();
    assert_eq!((settings.workers, settings.until), (4, None));
    assert!(report.warnings().is_empty());

    let other = place.0.path().join("other.toml");
    let named = [("SHOP_CONFIG", other.to_str().unwrap())];
    let error = place.read(&named).unwrap_err().to_string();
    assert!(error.contains("other.toml: cannot be opened"), "{error}");
    fs::write(&other, "workers = 9").unwrap();
    assert_eq!(place.read(&named).unwrap().0.workers, 9);
    // The file cannot name another one.
    let place = Place::new("config = 'other.toml'");
    assert_eq!(place.mistakes(&[]), ["config (shop.toml, line 1): not known; the nearest is debug"]);
}

#[test]
fn lists_are_arrays_in_the_file_and_have_commas_in_a_variable() {
    let place = Place::new("admins = ['alice', ' bob ']\nnet.ports = [80, '443', 0x1F90]\n");
    let (settings, _) = place.read(&[]).unwrap();
    assert_eq!(settings.admins, ["alice", "bob"]);
    assert_eq!(settings.ports, [80, 443, 8080]);
    let (settings, report) =
        place.read(&[("SHOP_ADMINS", "carol, ,dave,"), ("SHOP_NET_PORTS", "1")]).unwrap();
    assert_eq!((settings.admins, settings.ports), (vec!["carol".to_owned(), "dave".to_owned()], vec![1]));
    assert_eq!(report.entries()[4].value(), Some("carol, dave"));
    assert!(Place::new("admins = []").read(&[]).unwrap().0.admins.is_empty());
    assert_eq!(
        Place::new("admins = 'alice,bob'\nnet.ports = [80,\n [1]]").mistakes(&[]),
        ["net.ports (shop.toml, line 2): must be a list of single values"]
    );
    assert_eq!(
        Place::new("").mistakes(&[("SHOP_NET_PORTS", "80,http")]),
        ["environment variable SHOP_NET_PORTS: value 2: invalid digit found in string"]
    );
}

#[test]
fn values_of_a_file_have_types() {
    let place = Place::new("[jwt]\nuntil = 2026-12-01T00:00:00Z");
    assert_eq!(place.read(&[]).unwrap().0.until.as_deref(), Some("2026-12-01T00:00:00Z"));
    for (file, mistake) in [
        ("workers = '8'", "workers (shop.toml, line 1): must be a whole number from 1 to 64"),
        ("workers = 65", "workers (shop.toml, line 1): must be a whole number from 1 to 64"),
        ("workers = 99999999999999999999999999999999999999999", "workers (shop.toml, line 1): must be"),
        ("workers = 1.5", "workers (shop.toml, line 1): must be a whole number from 1 to 64"),
        ("\ndebug = 'true'", "debug (shop.toml, line 2): must be `true` or `false`"),
        ("debug = 1", "debug (shop.toml, line 1): must be `true` or `false`"),
        ("listen = 5", "listen (shop.toml, line 1): invalid socket address syntax"),
        ("listen = ['a']", "listen (shop.toml, line 1): must be a single value"),
        ("listen = ''", "listen (shop.toml, line 1): empty; unset it, or give it a value"),
        ("jwt.secret = 5", "jwt.secret (shop.toml, line 1): must be a text in quotes"),
        ("jwt.secret = ' '", "jwt.secret (shop.toml, line 1): empty"),
        ("jwt = 'secret'", "jwt (shop.toml, line 1): must be a table, such as `[jwt]`"),
        ("[[jwt]]\nsecret = 'a'", "jwt (shop.toml, line 1): must be a table, such as `[jwt]`"),
        ("[listen]\nport = 1", "listen (shop.toml, line 1): must be a single value"),
    ] {
        let mistakes = Place::new(file).mistakes(&[]);
        assert_eq!(mistakes.len(), 1, "{file}: {mistakes:?}");
        assert!(mistakes[0].starts_with(mistake), "{file}: {mistakes:?}");
    }
    for value in ["yes", "1", "TRUE", "on"] {
        let mistakes = Place::new("").mistakes(&[("SHOP_DEBUG", value)]);
        assert_eq!(mistakes, ["environment variable SHOP_DEBUG: must be `true` or `false`"]);
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name() {
    for (file, line, name, nearest) in [
        ("\nlistne = 'x'", 2, "listne", "listen"),
        ("[jwt]\nsecert = 'x'", 2, "jwt.secert", "jwt.secret"),
        ("jwt_secret = 'x'", 1, "jwt_secret", "jwt.secret"),
        ("SHOP_WORKERS = 5", 1, "SHOP_WORKERS", "workers"),
        ("JWT_SECRET = 'x'", 1, "JWT_SECRET", "jwt.secret"),
        ("[jwtt]\nsecret = 'x'", 1, "jwtt", "[jwt]"),
        ("'jwt.secret' = 'x'", 1, "jwt.secret", "jwt.secret"),
        ("'net.ports' = [1]\n[net]\nports = [2]", 1, "net.ports", "net.ports"),
    ] {
        let expected = format!("{name} (shop.toml, line {line}): not known; the nearest is {nearest}");
        assert_eq!(Place::new(file).mistakes(&[]), [expected], "{file}");
    }
    let place = Place::new("a = 1");
    let errors = place.sources(&[]).read(|_| Some(())).unwrap_err();
    assert!(errors.sentences()[0].ends_with("shop.toml, line 1): not known"), "{errors}");
}

#[test]
fn all_mistakes_are_told_at_once_and_in_order() {
    let place = Place::new(
        "workers = 0\nworkers = 2\nlisten = nowhere\n[net]\nportz = 1\n\n\n\n\n[jwt]\nsecret = 5\nfoo = 1\n",
    );
    let mistakes = place.mistakes(&[("SHOP_DEBUG", "2"), ("SHOP_ADMIN", "a"), ("SHOP_JWT_UNTIL", "now")]);
    let starts = [
        "workers (shop.toml, line 1): must be",
        "shop.toml, line 2: not TOML: duplicate key",
        "shop.toml, line 3: not TOML: ",
        "net.portz (shop.toml, line 5): not known",
        "jwt.secret (shop.toml, line 11): must be",
        "jwt.foo (shop.toml, line 12): not known",
        "environment variable SHOP_DEBUG: must be",
    ];
    assert_eq!(mistakes.len(), starts.len(), "{mistakes:#?}");
    for (mistake, start) in mistakes.iter().zip(starts) {
        assert!(mistake.starts_with(start), "{mistake}\n{start}");
        assert_eq!(mistake.lines().count(), 1, "{mistake}");
    }
    let text = place.read(&[("SHOP_ADMIN", "a")]).unwrap_err().to_string();
    assert!(text.starts_with("6 settings are wrong:\n- workers ("), "{text}");
    assert!(text.contains("\nwarning: environment variable SHOP_ADMIN: not known"), "{text}");
}

#[test]
fn a_file_of_something_else_is_refused_in_few_words() {
    let lines = "<html>\n".repeat(10_000);
    let mistakes = Place::new(&lines).mistakes(&[]);
    assert_eq!(mistakes.len(), 51);
    assert!(mistakes[50].starts_with("… and "), "{}", mistakes[50]);

    let place = Place::new(&"# longer than any settings\n".repeat(50_000));
    assert!(
        place.mistakes(&[])[0].ends_with("shop.toml: longer than 1 MiB, which cannot be a settings file")
    );
    fs::write(place.file(), [0xff, 0xfe, b'a']).unwrap();
    assert!(place.mistakes(&[])[0].ends_with("shop.toml: not valid UTF-8"));
    fs::remove_file(place.file()).unwrap();
    fs::create_dir(place.file()).unwrap();
    assert!(place.mistakes(&[])[0].contains("shop.toml: cannot be read: "));

    for deep in [
        "[".repeat(100_000),
        format!("admins = {}", "[".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(500_000)),
        format!("[{}a]", "a.".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
    ] {
        let mistakes = Place::new(&deep).mistakes(&[]);
        assert!(!mistakes.is_empty(), "{}", &deep[..20]);
        assert!(mistakes.iter().all(|mistake| mistake.len() < 500), "{mistakes:?}");
    }
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let place = Place::new("");
    let variables = [("SHOP_LISTENS", CANARY), ("shop_debug", "true"), ("PATH", "/bin"), ("SHOPLIFTER", "")];
    let (settings, report) = place.read(&variables).unwrap();
    assert!(!settings.debug);
    assert_eq!(
        report.warnings(),
        [
            "environment variable SHOP_LISTENS: not known, so without effect; the nearest is SHOP_LISTEN",
            "environment variable shop_debug: not known, so without effect; the nearest is SHOP_DEBUG",
        ]
    );
    let (_, report) = Sources::new("").with_variables(variables).read(Settings::read).unwrap();
    assert!(report.warnings().is_empty(), "without a prefix every variable is somebody else's");
}

/// Whoever sets it to nothing meant to set it, such as by a command that failed.
#[test]
fn an_empty_secret_is_a_mistake_even_with_one_in_the_file() {
    for (file, value) in [("", ""), ("", " "), ("jwt.secret = 'a'", "")] {
        let mistakes = Place::new(file).mistakes(&[("JWT_SECRET", value)]);
        assert_eq!(
            mistakes,
            ["environment variable JWT_SECRET: empty; unset it, or give it a value, such as the output of \
              `openssl rand -hex 32`"]
        );
    }
}

#[test]
fn a_mistake_is_one_line_whatever_was_read() {
    let read = |config: &mut Reader| {
        let lines = |_: String| Err::<(), _>(ConfigError::new("two\nlines\u{1b}[31m"));
        Some(config.value("a").and_then(lines).optional())
    };
    let errors =
        Sources::new("SHOP_").with_variables([("SHOP_A", "1"), ("SHOP_B\nC", "1")]).read(read).unwrap_err();
    assert_eq!(errors.sentences(), ["environment variable SHOP_A: two\\nlines\\u{1b}[31m"]);
    assert_eq!(errors.to_string().lines().count(), 2, "{errors}");
    let errors = Place::new("\"a\\nb\" = 1").read(&[]).unwrap_err();
    assert_eq!(errors.to_string().lines().count(), 1, "{errors}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_refused_if_it_is_ours() {
    use std::os::unix::ffi::OsStringExt as _;
    let not_text = || OsString::from_vec(vec![b'a', 0xff]);
    let read = |name: &str| {
        let variables = [(OsString::from(name), not_text()), (not_text(), not_text())];
        Sources::new("SHOP_").with_variables(variables).read(Settings::read)
    };
    assert_eq!(
        read("SHOP_LISTEN").unwrap_err().to_string(),
        "environment variable SHOP_LISTEN: not valid UTF-8"
    );
    assert_eq!(
        read("JWT_SECRET").unwrap_err().to_string(),
        "environment variable JWT_SECRET: not valid UTF-8"
    );
    assert!(read("OTHER").unwrap().1.warnings().is_empty());
}

#[cfg(unix)]
#[test]
fn a_file_with_a_secret_that_everybody_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    for (file, mode, warns) in
        [("jwt.secret = 'a'", 0o644, true), ("jwt.secret = 'a'", 0o640, false), ("workers = 5", 0o644, false)]
    {
        let place = Place::new(file);
        fs::set_permissions(place.file(), fs::Permissions::from_mode(mode)).unwrap();
        let (_, report) = place.read(&[]).unwrap();
        assert_eq!(report.warnings().len(), usize::from(warns), "{file} {mode:o}");
        if warns {
            assert!(report.warnings()[0].contains("holds the secret jwt.secret"), "{:?}", report.warnings());
        }
        // A secret that comes from elsewhere is not in it.
        let (_, report) = place.read(&[("JWT_SECRET", "b")]).unwrap();
        assert!(report.warnings().is_empty());
    }
}

#[test]
fn a_secret_is_seen_nowhere() {
    let quoted = format!("'{CANARY}'");
    for file in [
        format!("jwt.secret = {quoted}"),
        format!("jwt.secret = [{quoted}]"),
        format!("jwt.secret = {CANARY}"),
        format!("jwt.secret = '{CANARY}"),
        format!("jwt.secret = '{CANARY}' '"),
        format!("jwt.secret = {quoted}\njwt.secret = {quoted}"),
        format!("jwt.secret = \"\\q{CANARY}\""),
        format!("[jwt]\nsecert = {quoted}"),
        format!("secret = {quoted}"),
        format!("jwt = {quoted}"),
        format!("[jwt]\n{CANARY}"),
        format!("[jwt]\n{CANARY} = 1"),
        format!("[jwt]\n{CANARY}.a = 1"),
        format!("jwt.secret {quoted}"),
        format!("{quoted} = 5"),
        format!("workers = {quoted}\ndebug = {quoted}\nlisten = {quoted}\nnet.ports = [{quoted}]"),
    ] {
        let shown = match Place::new(&file).read(&[]) {
            Ok((settings, report)) => format!("{settings:?} {report} {report:?}"),
            Err(errors) => format!("{errors} {errors:?}"),
        };
        assert!(!shown.contains("7f3aX91kQw0b"), "{file}\n{shown}");
    }
    let variables = [("JWT_SECRET", CANARY), ("SHOP_JWT_SECERT", CANARY), ("SHOP_WORKERS", CANARY)];
    let errors = Place::new("").read(&variables).unwrap_err();
    assert!(!format!("{errors} {errors:?}").contains("7f3aX91kQw0b"), "{errors:?}");
    let sources = Place::new("").sources(&variables);
    assert!(!format!("{sources:?}").contains("7f3aX91kQw0b"));
    let read = sources.read(|config| {
        let shown = format!("{:?}", config.secret(("jwt.secret", "JWT_SECRET")));
        let wrong = config.secret(("jwt.secret", "JWT_SECRET")).and_then(|secret| match secret.expose() {
            CANARY => Err(ConfigError::new("a sentence")),
            _ => Ok(()),
        });
        let wrong = wrong.optional();
        assert!(wrong.is_none() && !format!("{config:?}{shown}").contains("7f3aX91kQw0b"));
        Some(())
    });
    assert_eq!(read.unwrap_err().sentences(), ["environment variable JWT_SECRET: a sentence"]);
}

#[test]
fn a_required_setting_is_missed_unless_its_file_was_not_understood() {
    let read = |config: &mut Reader| {
        let url = config.value::<String>("database.url").required();
        let workers = config.number("workers", 1..=64).or(4_u16);
        Some((url?, workers))
    };
    let place = Place::new("");
    let missing = "database.url (environment variable SHOP_DATABASE_URL): missing; set one of the two";
    let errors = place.sources(&[("SHOP_WORKERS", "0")]).read(read).unwrap_err();
    assert_eq!(
        errors.sentences(),
        [missing, "environment variable SHOP_WORKERS: must be a whole number from 1 to 64"]
    );
    assert_eq!(place.sources(&[("SHOP_DATABASE_URL", "a")]).read(read).unwrap().0, ("a".to_owned(), 4));

    let errors = Place::new("[database\nurl = 'a'").sources(&[]).read(read).unwrap_err();
    assert!(errors.sentences().iter().all(|sentence| sentence.contains(": not TOML")), "{errors}");
    let refused = place.sources(&[]).read(|_| None::<()>).unwrap_err();
    assert_eq!(refused.to_string(), "the settings were refused without a reason");
}

#[test]
fn what_follows_from_a_mistake_is_not_told_as_another_one() {
    let read = |config: &mut Reader| {
        let mail = config.switch("mail").or(false);
        let from: Option<SocketAddr> = config.value("from").optional();
        if mail && from.is_none() {
            config.refuse(["mail", "from"], "needs a sender");
        }
        Some(config.is_set("mail"))
    };
    let sources =
        |variables: &[(&str, &str)]| Sources::new("SHOP_").with_variables(variables.iter().copied());
    let sentences =
        |variables: &[(&str, &str)]| sources(variables).read(read).unwrap_err().sentences().to_vec();
    assert_eq!(sentences(&[("SHOP_MAIL", "true")]), ["environment variable SHOP_MAIL: needs a sender"]);
    assert_eq!(
        sentences(&[("SHOP_MAIL", "true"), ("SHOP_FROM", "nobody")]),
        ["environment variable SHOP_FROM: invalid socket address syntax"]
    );
    assert!(!sources(&[]).read(read).unwrap().0);
    assert!(sources(&[("SHOP_MAIL", "false")]).read(read).unwrap().0);
}

#[test]
fn a_wrong_value_does_not_hide_what_is_missing_beside_it() {
    let sources = Sources::new("SHOP_").with_variables([("SHOP_KEY", "short")]);
    let read = |config: &mut Reader| {
        let key = config.value::<String>("key").and_then(|_| Err::<(), _>("too short")).optional();
        if config.is_set("key") && config.value::<String>("owner").optional().is_none() {
            config.refuse(["key", "owner"], "needs SHOP_OWNER");
        }
        Some(key)
    };
    assert_eq!(
        sources.read(read).unwrap_err().sentences(),
        ["environment variable SHOP_KEY: needs SHOP_OWNER", "environment variable SHOP_KEY: too short"]
    );
}

/// Those without the prefix are easily written with it.
#[test]
fn the_prefix_before_a_variable_that_has_none_is_understood() {
    let read = |config: &mut Reader| {
        let issuer = config.value::<String>("oidc.issuer").optional();
        let secret = config.secret(("jwt.secret", "JWT_SECRET")).optional();
        assert!(secret.is_none());
        Some((issuer, config.value::<String>(("jwt.issuer", "JWT_ISSUER")).optional()))
    };
    let variables = [("SHOP_JWT_ISSUER", "https://login.example"), ("SHOP_JWT_SECRET", CANARY)];
    let (_, report) = Sources::new("SHOP_").with_variables(variables).read(read).unwrap();
    let told = |name: &str| {
        format!("environment variable SHOP_{name}: not known, so without effect; the nearest is {name}")
    };
    assert_eq!(report.warnings(), [told("JWT_ISSUER"), told("JWT_SECRET")]);
    let place = Place::new("SHOP_JWT_ISSUER = 'x'");
    let errors = place.sources(&[]).read(read).unwrap_err();
    assert!(errors.to_string().ends_with("not known; the nearest is jwt.issuer"), "{errors}");
}

/// With a `?` in the middle nobody knows what would have been asked for.
#[test]
fn what_was_never_asked_for_is_not_called_unknown() {
    let read = |config: &mut Reader| {
        let url = config.value::<String>("database_url").required()?;
        Some((url, config.value::<String>("listen").or(String::new())))
    };
    let missing = "database_url (environment variable SHOP_DATABASE_URL): missing; set one of the two";
    let place = Place::new("listen = ':80'\nworkers = 3");
    let errors = place.sources(&[("SHOP_LISTEN", ":81")]).read(read).unwrap_err();
    assert_eq!((errors.sentences(), errors.warnings()), (&[missing.to_owned()][..], &[][..]));
    // What looks like the missing one is told: it is probably why it is missing.
    let errors = place.sources(&[("SHOP_DATABASE_URI", "x")]).read(read).unwrap_err();
    assert!(errors.to_string().contains("the nearest is SHOP_DATABASE_URL"), "{errors}");
    let errors = Place::new("databse_url = 'x'").sources(&[]).read(read).unwrap_err();
    assert!(errors.to_string().contains("databse_url"), "{errors}");
}

#[test]
fn a_list_without_a_value_is_an_empty_one() {
    let read = |config: &mut Reader| Some(config.list::<u16>("ports").refuse_empty().optional());
    for variable in ["", ",", " , ,"] {
        let sources = Sources::new("SHOP_").with_variables([("SHOP_PORTS", variable)]);
        let errors = sources.read(read).unwrap_err();
        assert_eq!(
            errors.sentences(),
            ["environment variable SHOP_PORTS: empty; unset it, or give it a value"],
            "{variable:?}"
        );
    }
    for file in ["ports = []", "ports = ['']", "ports = ','"] {
        let errors = Place::new(file).sources(&[]).read(read).unwrap_err();
        assert!(errors.to_string().ends_with(": empty; unset it, or give it a value"), "{file}: {errors}");
    }
    let or_empty = |config: &mut Reader| Some(config.list::<u16>("ports").or_empty());
    assert!(Place::new("ports = []").sources(&[]).read(or_empty).unwrap().0.is_empty());
}

#[test]
fn the_report_shows_a_value_as_it_is_taken() {
    let variables = [("SHOP_AUDIENCE", "a,,b"), ("SHOP_HOSTS", "a,,b")];
    let read = |config: &mut Reader| {
        Some((config.value::<String>("audience").required()?, config.list::<String>("hosts").or_empty()))
    };
    let (_, report) = Sources::new("SHOP_").with_variables(variables).read(read).unwrap();
    let shown: Vec<_> = report.entries().iter().map(|entry| entry.value().unwrap()).collect();
    assert_eq!(shown, ["a,,b", "a, b"]);
}

#[test]
fn a_secret_in_a_url_is_not_shown() {
    let urls = [
        "https://idp.example/keys?token=",
        "https://idp.example/keys#",
        "postgres://app:x@db?password=",
        "postgres://app:",
    ];
    for url in urls {
        let url = format!("{url}{CANARY}{}", if url.ends_with("app:") { "@db" } else { "" });
        let sources = Sources::new("SHOP_").with_variables([("SHOP_URL", url)]);
        let (_, report) = sources.read(|config| config.value::<String>("url").required()).unwrap();
        assert!(!format!("{report} {report:?}").contains("7f3aX91kQw0b"), "{report}");
    }
}
