//! Public keys in PEM, for configurations.

use pkcs1::{RsaPublicKey, der::Decode};
use spki::{Document, ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::{jwk, key::Material};
use crate::error::ConfigError;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

fn unreadable() -> ConfigError {
    ConfigError::new(
        "this is no public key in PEM: give the text between and with `-----BEGIN PUBLIC KEY-----` and \
         `-----END PUBLIC KEY-----`, not a private key and not a certificate",
    )
}

fn unsupported() -> ConfigError {
    ConfigError::new("the key is none of RSA, P-256, P-384 and Ed25519; give one of these")
}

/// What the key is made of; as strong as one from a key set must be.
pub(super) fn read_public_key(pem: &[u8]) -> Result<Material, ConfigError> {
    let text = std::str::from_utf8(pem).map_err(|_| unreadable())?.trim();
    let (label, document) = Document::from_pem(text).map_err(|_| unreadable())?;
    match label {
        "RSA PUBLIC KEY" => read_rsa(document.as_bytes()),
        "PUBLIC KEY" => {
            let info = SubjectPublicKeyInfoRef::from_der(document.as_bytes()).map_err(|_| unreadable())?;
            let key = info.subject_public_key.as_bytes().ok_or_else(unreadable)?;
            match info.algorithm.oid {
                RSA => read_rsa(key),
                EC => {
                    // Other curves have points of the same length.
                    let bytes = match info.algorithm.parameters_oid() {
                        Ok(P256) => 65,
                        Ok(P384) => 97,
                        _ => return Err(unsupported()),
                    };
                    if key.len() != bytes || key.first() != Some(&4) {
                        return Err(refused("its point is not given by both coordinates"));
                    }
                    Ok(Material::Ec(key.to_vec()))
                }
                ED25519 => {
                    let x = key.try_into().map_err(|_| unreadable())?;
                    jwk::check_ed25519(&x).map_err(refused)?;
                    Ok(Material::Ed25519(x))
                }
                _ => Err(unsupported()),
            }
        }
        _ => Err(unreadable()),
    }
}

fn read_rsa(der: &[u8]) -> Result<Material, ConfigError> {
    let key = RsaPublicKey::from_der(der).map_err(|_| unreadable())?;
    let (n, e) = (key.modulus.as_bytes().to_vec(), key.public_exponent.as_bytes().to_vec());
    jwk::check_rsa(&n, &e).map_err(refused)?;
    Ok(Material::Rsa { n, e })
}

fn refused(reason: &'static str) -> ConfigError {
    ConfigError::new(format!("the public key cannot be used: {reason}"))
}
