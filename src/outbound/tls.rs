//! Whom TLS trusts, and the provider that it takes.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::error::ConfigError;

/// Mozilla's root certificates.
pub(crate) fn public_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// The certificate authorities in `pem` and no others.
pub(crate) fn roots_of(pem: &[u8]) -> Result<RootCertStore, ConfigError> {
    let unreadable = || {
        ConfigError::new("these are no root certificates in PEM: give `-----BEGIN CERTIFICATE-----` blocks")
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| unreadable())?;
        let is_authority = is_authority(&certificate);
        roots.add(certificate).map_err(|_| unreadable())?;
        if !is_authority {
            return Err(ConfigError::new(
                "a certificate is not an authority's (`CA:TRUE`): whoever has its key could sign for any host; give \
                 that of the authority which signed it",
            ));
        }
    }
    if roots.is_empty() { Err(unreadable()) } else { Ok(roots) }
}

/// A client by AWS-LC that trusts `roots`. It does not touch the process-wide provider of rustls.
pub(crate) fn trusting(roots: RootCertStore) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| ConfigError::new(format!("no TLS: {error}")))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

/// Whether the certificate's basic constraints say so (RFC 5280, section 4.2.1.9): the TLS library takes any
/// certificate for an authority's that it was given as one.
fn is_authority(der: &[u8]) -> bool {
    const BASIC_CONSTRAINTS: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x13];
    let mut extensions = der.windows(5).enumerate().filter(|(_, bytes)| *bytes == BASIC_CONSTRAINTS);
    extensions.any(|(at, _)| {
        let value = der.get(at + 5..).unwrap_or_default();
        let value = value.strip_prefix(&[0x01, 0x01, 0xff]).unwrap_or(value);
        matches!(value, [0x04, _, 0x30, _, 0x01, 0x01, 0xff, ..])
    })
}
