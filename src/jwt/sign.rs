//! Making signatures.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{EncodingKey, jwk::EllipticCurve};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    crypto::BACKEND,
    key::{Algorithm, VerifyingKey},
};
use crate::error::ConfigError;

/// The beginning of a private Ed25519 key in PKCS #8, version 1 (RFC 8410, section 7); the seed follows.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A private key and the algorithm that it signs by.
pub(crate) struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    /// The public half, if there is one.
    public: Option<Vec<u8>>,
}

impl Signer {
    /// `secret` was checked.
    pub(super) fn hs256(secret: &[u8]) -> Self {
        Self { key: EncodingKey::from_secret(secret), algorithm: Algorithm::HS256, public: None }
    }

    pub(crate) fn ed25519(seed: &[u8; 32]) -> Result<Self, ConfigError> {
        let der = Zeroizing::new([&ED25519_PKCS8[..], seed].concat());
        let public = (BACKEND.key_utils.ed_pub_components_from_private_key)(&der, &EllipticCurve::Ed25519);
        let public =
            public.map_err(|_| ConfigError::new("the Ed25519 seed makes no key; take 32 random bytes"))?;
        let key = EncodingKey::from_ed_der(&der);
        Ok(Self { key, algorithm: Algorithm::EdDSA, public: Some(public) })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key as a JSON Web Key of this name, if there is one.
    pub(crate) fn public_jwk(&self, kid: Option<&str>) -> Option<Value> {
        let x = BASE64.encode(self.public.as_deref()?);
        Some(json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x }))
    }

    /// The thumbprint of the public key (RFC 7638, section 3; RFC 8037, section 2).
    pub(super) fn thumbprint(&self) -> Option<Box<str>> {
        let x = BASE64.encode(self.public.as_deref()?);
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Some(BASE64.encode(Sha256::digest(members)).into())
    }

    /// The token of this header and these claims, signed.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> Result<String, ConfigError> {
        let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", BASE64.encode(signature)))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ConfigError> {
        let failed = "the token could not be signed";
        let signer = (BACKEND.signer_factory)(&self.algorithm.jwa(), &self.key)
            .map_err(|_| ConfigError::new(failed))?;
        signer.try_sign(message).map_err(|_| ConfigError::new(failed))
    }

    pub(super) fn verifying_key(&self) -> Result<VerifyingKey, ConfigError> {
        match &self.public {
            None => VerifyingKey::hmac(Algorithm::HS256, self.key.as_bytes()),
            Some(x) => {
                let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, BASE64.encode(x));
                VerifyingKey::from_jwk(jwk)
            }
        }
    }
}
