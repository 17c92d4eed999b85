//! Keys that verify signatures, each bound to one algorithm.

use std::{fmt, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};

use super::{crypto::Checker, jwk, pem, secret};
use crate::{error::ConfigError, id::is_printable, secret::TokenDigest};

/// The most keys that a set may hold.
pub(super) const MAX_KEYS: usize = 100;

/// Keys that are tried for one token, at most.
const MOST_TRIED: usize = 8;

/// A signature algorithm (RFC 7518, section 3.1; RFC 8037 for EdDSA, which is Ed25519 here).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "their names are the standard's")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Algorithm {
    pub(super) const ALL: [Self; 12] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The name in a token's header, such as `ES256`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// Whether a header or a key means this one. `Ed25519` is the newer name of EdDSA (RFC 9864).
    pub(super) fn is_named(self, name: &str) -> bool {
        name == self.name() || (self == Self::EdDSA && name == "Ed25519")
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.is_named(name))
    }

    pub(super) const fn is_rsa(self) -> bool {
        matches!(self, Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512)
    }

    /// The bytes of an HMAC, which its key must have as well (RFC 7518, section 3.2); 0 for the others.
    pub(super) const fn hmac_bytes(self) -> usize {
        match self {
            Self::HS256 => 32,
            Self::HS384 => 48,
            Self::HS512 => 64,
            _ => 0,
        }
    }
}

/// By its name in a token's header, such as `ES256`.
///
/// ```
/// use keyward::jwt::Algorithm;
///
/// assert_eq!("ES256".parse(), Ok(Algorithm::ES256));
/// assert!("none".parse::<Algorithm>().is_err());
/// ```
impl FromStr for Algorithm {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::from_name(name).ok_or_else(|| {
            ConfigError::new(
                "the algorithm must be one of HS256 to HS512, RS256 to PS512, ES256, ES384 and EdDSA",
            )
        })
    }
}

/// What a key is made of, checked.
#[derive(Clone)]
pub(super) enum Material {
    Hmac(zeroize::Zeroizing<Vec<u8>>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point of P-256 or P-384.
    Ec(Vec<u8>),
    Ed25519([u8; 32]),
}

/// A key that verifies tokens, by one algorithm and no other.
///
/// ```
/// use keyward::jwt::{Algorithm, VerifyingKey};
///
/// let pem = "-----BEGIN PUBLIC KEY-----\n\
///            MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
///            -----END PUBLIC KEY-----\n";
/// let key = VerifyingKey::from_pem(Algorithm::EdDSA, pem)?.with_kid("2026-11")?;
/// assert_eq!(key.algorithm(), Algorithm::EdDSA);
///
/// // A public key is known to everybody: as a shared secret it is refused.
/// assert!(VerifyingKey::hmac(Algorithm::HS256, pem).is_err());
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct VerifyingKey {
    algorithm: Algorithm,
    kid: Option<Box<str>>,
    material: TokenDigest,
    identity: TokenDigest,
    signature_bytes: usize,
    checker: Arc<Checker>,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("algorithm", &self.algorithm)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl VerifyingKey {
    /// A secret that is shared with the issuer: at least as many random bytes as the hash has, 32, 48 or 64.
    ///
    /// # Errors
    /// When the algorithm is no HMAC, or the secret is short, well-known, regular, or a public key.
    pub fn hmac(algorithm: Algorithm, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let secret = secret.as_ref();
        if algorithm.hmac_bytes() == 0 {
            return Err(ConfigError::new(
                "a shared secret needs one of the algorithms HS256, HS384 and HS512",
            ));
        }
        secret::check_secret(secret, algorithm.hmac_bytes())?;
        Self::from_material(algorithm, &Material::Hmac(secret.to_vec().into()))
    }

    /// A public key in PEM: `PUBLIC KEY` (RFC 7468, section 13) or `RSA PUBLIC KEY`.
    ///
    /// # Errors
    /// When it is another thing, does not fit the algorithm, or is weak: RSA needs 2048 bits or more, up to
    /// 8192, or 4096 without the feature `jwt`.
    pub fn from_pem(algorithm: Algorithm, pem: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        Self::from_material(algorithm, &pem::read_public_key(pem.as_ref())?)
    }

    /// A JSON Web Key (RFC 7517). Its `alg` counts; without it RSA is RS256, and a curve has its own.
    ///
    /// # Errors
    /// When it is another thing or weak.
    pub fn from_jwk(json: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        jwk::read_local(json.as_ref())
    }

    pub(super) fn from_material(algorithm: Algorithm, material: &Material) -> Result<Self, ConfigError> {
        let (bytes, signature_bytes) = match (material, algorithm) {
            (Material::Hmac(secret), algorithm) => (secret.to_vec(), algorithm.hmac_bytes()),
            (Material::Rsa { n, e }, _) => ([&n[..], b"/", e].concat(), n.len()),
            (Material::Ec(point), _) => (point.clone(), point.len() - 1),
            (Material::Ed25519(x), _) => (x.to_vec(), 64),
        };
        let bytes = zeroize::Zeroizing::new(bytes);
        let digest = TokenDigest::from_bytes(Sha256::digest(&*bytes).into());
        let refused = || {
            ConfigError::new(
                "the key does not fit its algorithm, or it is no point of its curve; give one of that kind",
            )
        };
        let checker = Arc::new(Checker::new(algorithm, material).ok_or_else(refused)?);
        let key = Self { algorithm, kid: None, material: digest, identity: digest, signature_bytes, checker };
        Ok(key.with_name(None))
    }

    /// Which tokens it is for: those whose header has this `kid`, and those without one.
    ///
    /// # Errors
    /// When the name is empty, longer than 128 bytes, or holds control characters.
    pub fn with_kid(self, kid: &str) -> Result<Self, ConfigError> {
        if !(1..=128).contains(&kid.len()) || !is_printable(kid) {
            return Err(ConfigError::new("a key's `kid` is 1 to 128 bytes without control characters"));
        }
        Ok(self.with_name(Some(kid)))
    }

    fn with_name(self, kid: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.algorithm.name());
        hash.update([0]);
        hash.update(self.material.as_bytes());
        hash.update(kid.unwrap_or_default());
        Self { kid: kid.map(Box::from), identity: TokenDigest::from_bytes(hash.finalize().into()), ..self }
    }

    /// The one algorithm that it verifies by.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its name, if it has one.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Tells it from every other key, by algorithm, name and material.
    pub(super) fn identity(&self) -> &TokenDigest {
        &self.identity
    }

    pub(super) fn has_material_of(&self, other: &Self) -> bool {
        self.material == other.material
    }

    /// Whether `signature` is this key's over `message`.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        signature.len() == self.signature_bytes && self.checker.verify(message, signature)
    }
}

/// Keys of one issuer: the public ones of a file, or several secrets at once for rotation.
///
/// ```
/// use keyward::jwt::{Algorithm, KeySet, VerifyingKey};
///
/// let old = VerifyingKey::hmac(Algorithm::HS256, "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-old-example")?;
/// let new = VerifyingKey::hmac(Algorithm::HS256, "b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf-new-example")?;
/// let keys = KeySet::new([old, new])?;
/// assert_eq!(keys.len(), 2);
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeySet(Arc<[VerifyingKey]>);

impl KeySet {
    /// These keys, 1 to 100 of them.
    ///
    /// # Errors
    /// When there are none or too many, or two keys of one algorithm have the same `kid`.
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Result<Self, ConfigError> {
        let keys: Arc<[_]> = keys.into_iter().collect();
        if !(1..=MAX_KEYS).contains(&keys.len()) {
            return Err(ConfigError::new("a key set holds between 1 and 100 keys"));
        }
        for (at, key) in keys.iter().enumerate() {
            let same = |other: &VerifyingKey| other.kid == key.kid && other.algorithm == key.algorithm;
            if key.kid.is_some() && keys.iter().skip(at + 1).any(same) {
                return Err(ConfigError::new("two keys have the same `kid`; give each its own"));
            }
        }
        Ok(Self(keys))
    }

    /// The public keys of a JSON Web Key Set (RFC 7517), such as a file. Keys that cannot be used are left
    /// out.
    ///
    /// # Errors
    /// When it is no key set, holds a symmetric key, or no key that can be used.
    pub fn from_jwks(json: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let parsed = jwk::parse_remote_set(json.as_ref(), Algorithm::RS256)
            .map_err(|error| ConfigError::new(error.to_string()))?;
        if parsed.symmetric > 0 {
            return Err(ConfigError::new(
                "the key set holds a symmetric key; give only public keys in a set",
            ));
        }
        parsed.set.ok_or_else(|| ConfigError::new("the key set holds no key that can verify a signature"))
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Always `false`: a set without keys cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a token may be verified by. If some carry the token's `kid`, it is one of those;
    /// otherwise it may be one without a name. Their algorithm is the one that the header says, or they are
    /// no candidates: a header cannot make a key work another way.
    pub(super) fn candidates<'a>(
        &'a self,
        alg: &'a str,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a VerifyingKey> {
        let known = kid.is_some_and(|kid| self.knows_kid(kid));
        let named = move |key: &&VerifyingKey| match kid {
            None => true,
            Some(_) if known => key.kid() == kid,
            Some(_) => key.kid.is_none(),
        };
        self.0.iter().filter(named).filter(move |key| key.algorithm.is_named(alg)).take(MOST_TRIED)
    }

    pub(super) fn knows_kid(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid() == Some(kid))
    }

    pub(super) fn has_kids(&self) -> bool {
        self.0.iter().any(|key| key.kid.is_some())
    }

    pub(super) fn contains(&self, identity: &TokenDigest) -> bool {
        self.0.iter().any(|key| key.identity == *identity)
    }
}
