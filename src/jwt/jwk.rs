//! JSON Web Keys (RFC 7517) and which of them may be believed.
//!
//! A key set is hostile until it is read: each key stands for itself, one that cannot be used is left out
//! with a reason, and none can make the others unusable.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::key::{Algorithm, KeySet, MAX_KEYS, Material, VerifyingKey};
use crate::error::ConfigError;

/// What a key set held.
#[derive(Debug)]
pub(super) struct ParsedSet {
    /// The keys that can be used, if there is one.
    pub(super) set: Option<KeySet>,
    /// The others, by name, and why.
    pub(super) skipped: Vec<(Option<String>, &'static str)>,
    /// How many were symmetric: no secret of anybody's any more.
    pub(super) symmetric: usize,
}

/// Not a key set at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SetError {
    #[error("this is no JSON Web Key Set; it must be an object with a list named `keys`")]
    NotASet,
    #[error("the key set holds too many keys")]
    TooMany,
}

/// Reads a set of public keys. RSA keys that do not name their algorithm have `rsa`.
pub(super) fn parse_remote_set(body: &[u8], rsa: Algorithm) -> Result<ParsedSet, SetError> {
    let set: Value = serde_json::from_slice(body).map_err(|_| SetError::NotASet)?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(SetError::NotASet)?;
    if keys.len() > MAX_KEYS {
        return Err(SetError::TooMany);
    }
    let mut parsed = ParsedSet { set: None, skipped: Vec::new(), symmetric: 0 };
    let mut good: Vec<VerifyingKey> = Vec::new();
    for key in keys {
        let kid = key.get("kid").and_then(Value::as_str).map(str::to_owned);
        if text(key, "kty") == Some("oct") {
            parsed.symmetric += 1;
            parsed.skipped.push((kid, "it is symmetric"));
            continue;
        }
        match read_public(key, rsa) {
            Ok(key) => good.push(key),
            Err(reason) => parsed.skipped.push((kid, reason)),
        }
    }
    let ambiguous = drop_ambiguous(&mut good);
    parsed.skipped.extend(ambiguous.into_iter().map(|kid| (Some(kid), "two keys have this name")));
    parsed.set = KeySet::new(good).ok();
    Ok(parsed)
}

/// Takes keys out that share a name and an algorithm with another key; the same key twice is one.
fn drop_ambiguous(keys: &mut Vec<VerifyingKey>) -> Vec<String> {
    let mut unique: Vec<VerifyingKey> = Vec::new();
    for key in keys.drain(..) {
        if !unique.iter().any(|other| other.identity() == key.identity()) {
            unique.push(key);
        }
    }
    let is_ambiguous = |key: &VerifyingKey| {
        let same = |other: &&VerifyingKey| other.kid() == key.kid() && other.algorithm() == key.algorithm();
        key.kid().is_some() && unique.iter().filter(same).any(|other| !other.has_material_of(key))
    };
    let (bad, good): (Vec<_>, Vec<_>) = unique.iter().cloned().partition(is_ambiguous);
    *keys = good;
    bad.iter().filter_map(|key| key.kid().map(str::to_owned)).collect()
}

/// A key of a configuration: public, or a secret that is strong enough.
pub(super) fn read_local(json: &[u8]) -> Result<VerifyingKey, ConfigError> {
    let key: Value = serde_json::from_slice(json)
        .map_err(|_| ConfigError::new("this is no JSON Web Key; give one JSON object with `kty`"))?;
    let refused = |reason| ConfigError::new(format!("the JSON Web Key cannot be used: {reason}"));
    if text(&key, "kty") != Some("oct") {
        return read_public(&key, Algorithm::RS256).map_err(refused);
    }
    let members = key.as_object().ok_or_else(|| refused("it is no object"))?;
    check_use(members).map_err(refused)?;
    let algorithm = text(&key, "alg").map_or(Some(Algorithm::HS256), Algorithm::from_name);
    let algorithm = algorithm.ok_or_else(|| refused("its `alg` is not known"))?;
    let secret = zeroize::Zeroizing::new(decoded(members, "k").map_err(refused)?);
    named(VerifyingKey::hmac(algorithm, &*secret)?, members).map_err(refused)
}

fn read_public(key: &Value, rsa: Algorithm) -> Result<VerifyingKey, &'static str> {
    let members = key.as_object().ok_or("it is no object")?;
    check_use(members)?;
    // A private key that is shown to everybody is nobody's key any more.
    if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| members.contains_key(*name)) {
        return Err("it is a private key");
    }
    let (natural, material) = match (text(key, "kty"), text(key, "crv")) {
        (Some("RSA"), _) => (rsa, read_rsa(members)?),
        (Some("EC"), Some("P-256")) => (Algorithm::ES256, read_point(members, 32)?),
        (Some("EC"), Some("P-384")) => (Algorithm::ES384, read_point(members, 48)?),
        (Some("OKP"), Some("Ed25519")) => {
            let x: [u8; 32] = decoded(members, "x")?.try_into().map_err(|_| "its `x` has not 32 bytes")?;
            check_ed25519(&x)?;
            (Algorithm::EdDSA, Material::Ed25519(x))
        }
        (Some("EC" | "OKP"), _) => return Err("its curve is not supported"),
        _ => return Err("its type is not supported"),
    };
    // The key says by which algorithm it is used; a token never does.
    let algorithm = match members.get("alg") {
        None => natural,
        Some(Value::String(name)) => Algorithm::from_name(name).ok_or("its `alg` is not supported")?,
        Some(_) => return Err("its `alg` is no text"),
    };
    let refused = |_| "its `alg` does not fit its type, or it is no point of its curve";
    named(VerifyingKey::from_material(algorithm, &material).map_err(refused)?, members)
}

fn named(key: VerifyingKey, members: &Map<String, Value>) -> Result<VerifyingKey, &'static str> {
    match members.get("kid") {
        None => Ok(key),
        Some(Value::String(kid)) => key.with_kid(kid).map_err(|_| "its `kid` cannot be a name"),
        Some(_) => Err("its `kid` is no text"),
    }
}

/// What the key says that it is for (RFC 7517, sections 4.2 and 4.3).
fn check_use(members: &Map<String, Value>) -> Result<(), &'static str> {
    if members.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures");
    }
    let verifies = |operations: &Value| {
        operations
            .as_array()
            .is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    };
    if members.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return Err("it is not for verifying");
    }
    Ok(())
}

fn text<'a>(key: &'a Value, name: &str) -> Option<&'a str> {
    key.get(name).and_then(Value::as_str)
}

fn decoded(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = members.get(name).and_then(Value::as_str).ok_or("a part of it is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of it is not in base64url")
}

fn read_point(members: &Map<String, Value>, bytes: usize) -> Result<Material, &'static str> {
    let (x, y) = (decoded(members, "x")?, decoded(members, "y")?);
    if x.len() != bytes || y.len() != bytes {
        return Err("its coordinates have not the length of its curve");
    }
    Ok(Material::Ec([&[4][..], &x, &y].concat()))
}

fn read_rsa(members: &Map<String, Value>) -> Result<Material, &'static str> {
    let (mut n, e) = (decoded(members, "n")?, decoded(members, "e")?);
    // Some issuers write the sign byte of ASN.1 along.
    if n.first() == Some(&0) {
        n.remove(0);
    }
    check_rsa(&n, &e)?;
    Ok(Material::Rsa { n, e })
}

/// The longest modulus that the backend verifies with: a longer key would be taken, and refuse every token.
const MOST_RSA_BITS: usize = if cfg!(feature = "jwt") { 8192 } else { 4096 };

/// At least 2048 bits (RFC 7518, section 3.3), an odd exponent from 3 to 2³², and not made by a library whose
/// keys can be factored.
pub(super) fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), &'static str> {
    let leading = n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = (n.len() * 8).saturating_sub(leading);
    if leading >= 8 || !(2048..=MOST_RSA_BITS).contains(&bits) {
        return Err("its modulus has not between 2048 and 8192 bits, or 4096 without AWS-LC");
    }
    if n.last().is_none_or(|byte| byte % 2 == 0) {
        return Err("its modulus is even");
    }
    let exponent =
        e.iter().try_fold(0u64, |value, byte| (value < 1 << 32).then_some(value << 8 | u64::from(*byte)));
    if !exponent.is_some_and(|e| (3..=1 << 32).contains(&e) && e % 2 == 1) {
        return Err("its exponent is not an odd number from 3 to 2^32");
    }
    if has_roca_fingerprint(n) {
        return Err("it was made by a library whose keys can be factored (CVE-2017-15361)");
    }
    Ok(())
}

/// Such moduli are powers of 65537 modulo every small prime (Nemec and others, 2017).
fn has_roca_fingerprint(n: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101,
        103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|&prime| {
        let residue = n.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        (0..prime).any(|_| {
            power = power * (65_537 % prime) % prime;
            power == residue
        })
    })
}

/// The y-coordinates of the points of small order on Curve25519 in Edwards form, the sign bit left out: under
/// such a key signatures can be made without knowing anything.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    ends(0xec),
    ends(0xed),
    ends(0xee),
];

/// 2²⁵⁵ − 19 and its neighbours.
const fn ends(first: u8) -> [u8; 32] {
    let mut y = [0xff; 32];
    y[0] = first;
    y[31] = 0x7f;
    y
}

pub(super) fn check_ed25519(x: &[u8; 32]) -> Result<(), &'static str> {
    let mut y = *x;
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    if SMALL_ORDER.contains(&y) { Err("it is a point of small order") } else { Ok(()) }
}
