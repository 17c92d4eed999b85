//! Signatures, by AWS-LC or in Rust.
//!
//! With AWS-LC a key is parsed once, when it is loaded; the verifiers of `jsonwebtoken`, which end in the same
//! calls, parse it for each token. In Rust it is `jsonwebtoken`'s verifier. With both compiled in, AWS-LC is used,
//! and the process-wide default of `jsonwebtoken` is never touched.

#[cfg(feature = "jwt")]
use aws_lc_rs::{
    hmac,
    signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents},
};
#[cfg(any(test, not(feature = "jwt")))]
use jsonwebtoken::DecodingKey;
use jsonwebtoken::{Algorithm as Jwa, crypto::CryptoProvider};

use super::key::{Algorithm, Material};

#[cfg(not(any(feature = "jwt", feature = "jwt-rust-crypto")))]
compile_error!("the feature `_jwt` is internal; turn on `jwt` or `jwt-rust-crypto`");

/// What makes signatures.
#[cfg(feature = "jwt")]
pub(super) static BACKEND: &CryptoProvider = &jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
#[cfg(not(feature = "jwt"))]
pub(super) static BACKEND: &CryptoProvider = &jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;

/// A key, ready to verify signatures by its one algorithm.
#[cfg(feature = "jwt")]
#[expect(clippy::large_enum_variant, reason = "there are a few of them, each behind an `Arc`")]
pub(super) enum Checker {
    Hmac(hmac::Key),
    Public(ParsedPublicKey),
}

#[cfg(feature = "jwt")]
impl Checker {
    /// `None` if the material is none for this algorithm, such as a point that is not on the curve.
    pub(super) fn new(algorithm: Algorithm, material: &Material) -> Option<Self> {
        let public = match (material, algorithm) {
            (Material::Hmac(secret), _) => return Some(Self::Hmac(hmac::Key::new(hmac(algorithm)?, secret))),
            (Material::Rsa { n, e }, _) => {
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(rsa(algorithm)?)
            }
            (Material::Ec(point), Algorithm::ES256) => {
                ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
            }
            (Material::Ec(point), Algorithm::ES384) => {
                ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
            }
            (Material::Ed25519(x), Algorithm::EdDSA) => ParsedPublicKey::new(&signature::ED25519, x),
            _ => return None,
        };
        public.ok().map(Self::Public)
    }

    /// Whether `signature` is this key's over `message`. Signatures of HMAC are compared in constant time.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

#[cfg(feature = "jwt")]
const fn hmac(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

#[cfg(feature = "jwt")]
const fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

#[cfg(not(feature = "jwt"))]
pub(super) use Portable as Checker;

/// A key for the verifiers of `jsonwebtoken`.
#[cfg(any(test, not(feature = "jwt")))]
pub(super) struct Portable {
    backend: &'static CryptoProvider,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[cfg(any(test, not(feature = "jwt")))]
impl Portable {
    #[cfg(not(feature = "jwt"))]
    pub(super) fn new(algorithm: Algorithm, material: &Material) -> Option<Self> {
        Self::of(BACKEND, algorithm, material)
    }

    /// `None` if the material is none for this algorithm.
    fn of(backend: &'static CryptoProvider, algorithm: Algorithm, material: &Material) -> Option<Self> {
        let key = match (material, algorithm) {
            (Material::Hmac(secret), Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) => {
                DecodingKey::from_secret(secret)
            }
            (Material::Rsa { n, e }, algorithm) if algorithm.is_rsa() => {
                DecodingKey::from_rsa_raw_components(n, e)
            }
            (Material::Ec(point), Algorithm::ES256 | Algorithm::ES384) => DecodingKey::from_ec_der(point),
            (Material::Ed25519(x), Algorithm::EdDSA) => DecodingKey::from_ed_der(x),
            _ => return None,
        };
        // A point that is not on its curve is found out here.
        (backend.verifier_factory)(&algorithm.jwa(), &key).ok()?;
        Some(Self { backend, algorithm, key })
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        (self.backend.verifier_factory)(&self.algorithm.jwa(), &self.key)
            .is_ok_and(|verifier| verifier.verify(message, &signature.to_vec()).is_ok())
    }
}

impl Algorithm {
    pub(super) const fn jwa(self) -> Jwa {
        match self {
            Self::HS256 => Jwa::HS256,
            Self::HS384 => Jwa::HS384,
            Self::HS512 => Jwa::HS512,
            Self::RS256 => Jwa::RS256,
            Self::RS384 => Jwa::RS384,
            Self::RS512 => Jwa::RS512,
            Self::PS256 => Jwa::PS256,
            Self::PS384 => Jwa::PS384,
            Self::PS512 => Jwa::PS512,
            Self::ES256 => Jwa::ES256,
            Self::ES384 => Jwa::ES384,
            Self::EdDSA => Jwa::EdDSA,
        }
    }
}

#[cfg(feature = "jwt")]
#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::{KeyPair, KeySize},
        signature::{EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding},
    };
    use pkcs1::{RsaPublicKey, der::Decode};
    use zeroize::Zeroizing;

    use super::*;

    const MESSAGE: &[u8] = b"eyJhbGciOiJub25lIn0.e30";

    fn signed_by_rsa(encoding: &'static dyn RsaEncoding) -> (Material, Vec<u8>) {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut made = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), MESSAGE, &mut made).unwrap();
        let public = RsaPublicKey::from_der(pair.public_key().as_ref()).unwrap();
        let (n, e) = (public.modulus.as_bytes().to_vec(), public.public_exponent.as_bytes().to_vec());
        (Material::Rsa { n, e }, made)
    }

    fn signed_by_curve(algorithm: &'static EcdsaSigningAlgorithm) -> (Material, Vec<u8>) {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let made = pair.sign(&SystemRandom::new(), MESSAGE).unwrap();
        (Material::Ec(pair.public_key().as_ref().to_vec()), made.as_ref().to_vec())
    }

    fn signed(algorithm: Algorithm) -> (Material, Vec<u8>) {
        match algorithm {
            Algorithm::RS256 => signed_by_rsa(&signature::RSA_PKCS1_SHA256),
            Algorithm::RS384 => signed_by_rsa(&signature::RSA_PKCS1_SHA384),
            Algorithm::RS512 => signed_by_rsa(&signature::RSA_PKCS1_SHA512),
            Algorithm::PS256 => signed_by_rsa(&signature::RSA_PSS_SHA256),
            Algorithm::PS384 => signed_by_rsa(&signature::RSA_PSS_SHA384),
            Algorithm::PS512 => signed_by_rsa(&signature::RSA_PSS_SHA512),
            Algorithm::ES256 => signed_by_curve(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => signed_by_curve(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
                let x = pair.public_key().as_ref().try_into().unwrap();
                (Material::Ed25519(x), pair.sign(MESSAGE).as_ref().to_vec())
            }
            hs => {
                let secret = vec![5; hs.hmac_bytes()];
                let key = hmac::Key::new(super::hmac(hs).unwrap(), &secret);
                let made = hmac::sign(&key, MESSAGE).as_ref().to_vec();
                (Material::Hmac(Zeroizing::new(secret)), made)
            }
        }
    }

    fn backends() -> Vec<&'static CryptoProvider> {
        vec![
            &jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER,
            #[cfg(feature = "jwt-rust-crypto")]
            &jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER,
        ]
    }

    /// Keys that are parsed once say what `jsonwebtoken` says of a good signature, of each one with a changed,
    /// a missing and a further byte, and of another message.
    #[test]
    fn parsed_keys_answer_as_the_verifiers_of_jsonwebtoken() {
        for algorithm in Algorithm::ALL {
            let (material, good) = signed(algorithm);
            let ours = Checker::new(algorithm, &material).unwrap();
            assert!(ours.verify(MESSAGE, &good), "{algorithm:?}");
            let theirs: Vec<_> = backends()
                .into_iter()
                .map(|backend| Portable::of(backend, algorithm, &material).unwrap())
                .collect();
            let changed = (0..good.len()).step_by(good.len() / 16).map(|at| {
                let mut bad = good.clone();
                bad[at] ^= 1;
                bad
            });
            let lengths =
                [vec![], good[1..].to_vec(), good[..good.len() - 1].to_vec(), [&good[..], &[0]].concat()];
            for bad in changed.chain(lengths).chain([vec![0; good.len()], vec![0xff; good.len()]]) {
                assert!(!ours.verify(MESSAGE, &bad), "{algorithm:?}");
                assert!(theirs.iter().all(|their| !their.verify(MESSAGE, &bad)), "{algorithm:?}");
            }
            assert!(theirs.iter().all(|their| their.verify(MESSAGE, &good)), "{algorithm:?}");
            assert!(!ours.verify(b"another", &good), "{algorithm:?}");
        }
    }

    #[test]
    fn material_is_for_its_own_algorithms() {
        let kinds: [fn(Algorithm) -> bool; 5] = [
            |algorithm| algorithm.hmac_bytes() > 0,
            Algorithm::is_rsa,
            |algorithm| algorithm == Algorithm::ES256,
            |algorithm| algorithm == Algorithm::ES384,
            |algorithm| algorithm == Algorithm::EdDSA,
        ];
        for made_for in
            [Algorithm::HS512, Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]
        {
            let (material, _) = signed(made_for);
            let fits = kinds.iter().find(|kind| kind(made_for)).unwrap();
            for algorithm in Algorithm::ALL {
                let made = Checker::new(algorithm, &material).is_some();
                assert_eq!(made, fits(algorithm), "{made_for:?} as {algorithm:?}");
            }
        }
    }
}
