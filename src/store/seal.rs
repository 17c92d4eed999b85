//! Eight bytes of SHA-256 over a row's values: a token must not lose its revocation or gain a scope because a disk
//! changed a value and the database did not notice.

use sha2::{Digest, Sha256};

/// A value as a database holds it.
#[derive(Clone, Copy)]
pub(super) enum Sealed<'a> {
    Null,
    Integer(i64),
    #[cfg(feature = "sqlite")]
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// Each value counts with its kind, and texts and bytes with their length: no two rows are hashed alike.
pub(super) fn seal<'a>(values: impl IntoIterator<Item = Sealed<'a>>) -> [u8; 8] {
    let mut hash = Sha256::new();
    for value in values {
        match value {
            Sealed::Null => hash.update([0]),
            Sealed::Integer(integer) => {
                hash.update([1]);
                hash.update(integer.to_le_bytes());
            }
            #[cfg(feature = "sqlite")]
            Sealed::Real(real) => {
                hash.update([2]);
                hash.update(real.to_le_bytes());
            }
            Sealed::Text(bytes) => update_bytes(&mut hash, 3, bytes),
            Sealed::Blob(bytes) => update_bytes(&mut hash, 4, bytes),
        }
    }
    first_bytes(hash)
}

/// The seal of a text, which SQL can compute as well.
#[cfg(feature = "postgres")]
pub(super) fn seal_text(text: &str) -> [u8; 8] {
    first_bytes(Sha256::new_with_prefix(text))
}

fn first_bytes(hash: Sha256) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    [a, b, c, d, e, f, g, h]
}

fn update_bytes(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    hash.update([kind]);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}
