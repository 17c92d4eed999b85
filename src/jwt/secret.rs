//! Which texts are no secrets.

use base64::{Engine, engine::general_purpose};

use crate::{error::ConfigError, secret::distinct};

/// Words that stand in standards, tutorials and sample configurations, as parts of longer texts too; long ones
/// first, all in lower case.
const WELL_KNOWN: [&str; 53] = [
    // RFC 7515, appendix A.1.
    "aym1sysppbydfgzld3umj1qzkobwvmkoqq-estjqlr_t-1qs0gzh75aktmn3yj0ips4hcguutwjazzr1z9caow",
    // Tutorials of web frameworks, copied into many programs as they are.
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "404e635266556a586e3272357538782f413f4428472b4b6250645367566b5970",
    "5367566b59703373367639792f423f4528482b4d6251655468576d5a71347437",
    "at-least-256-bits-long",
    "a-string-secret",
    "your-256-bit",
    "your-512-bit",
    "change-this",
    "example.com",
    "your_secret",
    "your-secret",
    "supersecret",
    "placeholder",
    "development",
    "production",
    "keyboardcat",
    "yoursecret",
    "secret-key",
    "secret_key",
    "jwt_secret",
    "jwt-secret",
    "replace-me",
    "change-me",
    "change_me",
    "my-secret",
    "secretkey",
    "jwtsecret",
    "replaceme",
    "changeme",
    "changeit",
    "password",
    "passw0rd",
    "mysecret",
    "insecure",
    "default",
    "letmein",
    "please",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "1qaz2wsx",
    "3edc4rfv",
    "5tgb6yhn",
    "7ujm8ik9",
    "correct horse",
    "battery staple",
    "random_string",
    "the quick brown fox",
    "jumps over the lazy dog",
    "change",
    "secret",
    "super",
];

/// How many characters a text must have beside the well-known words in it.
const REMAINDER: usize = 24;

/// Refuses what is short, well-known, regular, or public.
pub(super) fn check_secret(secret: &[u8], min: usize) -> Result<(), ConfigError> {
    if is_public_key(secret) {
        return Err(ConfigError::new(
            "the JWT secret is a public key, a certificate or another key file, which others know; give a secret \
             of its own, such as the output of `openssl rand -base64 48`",
        ));
    }
    let weak = secret.len() < min || distinct(secret) < 10 || is_regular(secret) || is_well_known(secret);
    if weak {
        return Err(ConfigError::new(format!(
            "the JWT secret is too weak: give at least {min} random bytes, such as the output of \
             `openssl rand -base64 {}`",
            min.max(36) * 4 / 3
        )));
    }
    Ok(())
}

/// Whether it is a key in one of the forms in which keys are published.
fn is_public_key(secret: &[u8]) -> bool {
    let text = String::from_utf8_lossy(secret);
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}');
    let begins = ["-----BEGIN", "---- BEGIN", "ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
    let is_text = begins.iter().any(|begin| text.starts_with(begin)) || text.contains("-----BEGIN ");
    let is_json = text.starts_with('{') && text.contains("\"kty\"");
    is_text || is_json || is_der(secret) || {
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let engines = [general_purpose::STANDARD_NO_PAD, general_purpose::URL_SAFE_NO_PAD];
        let decoded = engines.iter().find_map(|engine| engine.decode(dense.trim_end_matches('=')).ok());
        decoded.is_some_and(|bytes| is_der(&bytes))
    }
}

/// Whether it is one ASN.1 sequence from the first byte to the last, with a sequence or a number as its first
/// part, and as long as the shortest public key: random bytes are that once in millions of times.
fn is_der(bytes: &[u8]) -> bool {
    let (header, length) = match bytes {
        [0x30, length @ 0..=0x7f, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(*high) * 256 + usize::from(*low)),
        _ => return false,
    };
    header + length == bytes.len() && bytes.len() >= 44 && matches!(bytes.get(header), Some(0x30 | 0x02))
}

/// Whether it repeats itself, or counts.
fn is_regular(secret: &[u8]) -> bool {
    let repeats = (1..=secret.len() / 2)
        .any(|period| secret.iter().zip(secret.iter().skip(period)).all(|(a, b)| a == b));
    let steps = secret.iter().zip(secret.iter().skip(1));
    let counting = steps.filter(|(a, b)| (1..=1).contains(&a.abs_diff(**b)) || a == b).count();
    repeats || counting * 2 > secret.len()
}

/// Whether too little is left of it without the words that everybody knows.
fn is_well_known(secret: &[u8]) -> bool {
    let mut text = String::from_utf8_lossy(secret).to_ascii_lowercase();
    let mut found = false;
    for word in WELL_KNOWN {
        if text.contains(word) {
            found = true;
            text = text.replace(word, "");
        }
    }
    found && text.len() < REMAINDER
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_everybody_knows_is_no_secret() {
        for weak in [
            "",
            "a",
            "secret",
            "short-but-random-X9z!",
            "your-256-bit-secret",
            "your-256-bit-secret-your-256-bit-secret",
            "a-string-secret-at-least-256-bits-long",
            "changemechangemechangemechangeme",
            "supersecretsupersecretsupersecret!",
            "00000000000000000000000000000000000000",
            "0123456789012345678901234567890123456789",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "                                        ",
            "my-super-secret-jwt-secret-key-12345",
            "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
            "\n \t-----BEGIN CERTIFICATE-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
            "\u{feff}-----BEGIN RSA PUBLIC KEY-----xyz0123",
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 me@host",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2x me@host",
            "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAI",
            r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZp","e":"AQAB"}"#,
            "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
            "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "MCowBQYDK2VwAyEA11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
            "09D25E094FAA6CA2556C818166B7A9563B93F7099F6F0F4CAA6CF63B88E8D3E7",
        ] {
            assert!(check_secret(weak.as_bytes(), 32).is_err(), "{weak:?}");
        }
        for word in WELL_KNOWN {
            let found = is_well_known(word.to_ascii_uppercase().as_bytes());
            assert!(found, "{word} is not in lower case, or stands after a part of itself");
        }
        let error = check_secret(b"secret", 32).unwrap_err().to_string();
        assert!(error.contains("at least 32 random bytes") && !error.contains("secret\""), "{error}");
        assert!(check_secret(b"7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only", 32).is_ok());
    }

    proptest! {
        #[test]
        fn random_secrets_are_good(bytes in prop::array::uniform32(any::<u8>())) {
            prop_assume!(distinct(&bytes) >= 10 && !is_regular(&bytes));
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            // Of 64 hexadecimal digits, 10 different ones are as good as certain.
            prop_assume!(distinct(hex.as_bytes()) >= 10 && !is_regular(hex.as_bytes()));
            prop_assert!(check_secret(hex.as_bytes(), 32).is_ok());
            prop_assert!(check_secret(general_purpose::STANDARD.encode(bytes).as_bytes(), 32).is_ok());
            prop_assert!(check_secret(&bytes, 32).is_ok());
        }
    }
}
