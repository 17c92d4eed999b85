//! Which keys may verify signatures: each rule by its name, over key sets, single JSON Web Keys and PEM.
//!
//! The ids in the names are those of the tests of tokens (`jwt/main.rs`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::convert::Infallible;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AuthLayer, UserId,
    jwt::{Algorithm, JwtAuth, JwtIssuer, KeySet, VerifyingKey},
};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

// Made by OpenSSL for these tests; nobody has their private parts.
const N: &str = "zAP7tjSP1k1T723a6Yfr0voKfhByszFggSYeMyDHF3hIB509AZ9sKhR2Ctr8S_uwkBv4UYE07YKadDh0erQu8lupZLT-4vX1wMk77qTLeO77zt77IZ0xBFibvksVDht_dz1byptznUMViM1Lb3ZyLKy4hlAqJBp94FCLWaQMwzyrtWuRTD_a4Z7jITqG9R_rNhUDYAfaglOzTLybmdMMzkqcgmRhHHil9-701Iy8_m_0DvW8P9mwKH3dD-wMbWNuyKzsRxrti5MjShUKU8hHd_3mfViS_Aacogs_AlH2oVUuapnbOIfJUxoP5BR48fOkrfmcsdH5NCzY6YhpaEiAnQ";
const N_OTHER: &str = "qdXE1qw-p2di7dPQRUCdrhBIOV-YLx59wAbr3lr6Kz4lVjLmEI6EKaHpHCDNMZkl1BGk1XZ2Os3BBAA2jYH7lhkU_FwLvQHShFlBGTtO-UHHegXD7fG47qqJUshdG8MhQAsQ5gUF1JTDgSMOgcwGnWJNRB5j3GTXn8IzhMNBw-0CNSQfPALmLlQxWNExZZZH_e5xaPxhKOPHXicUVUnw-1q3mwhxpM7EoVU7E_nrHsZzcwXapEQ1ab6WqqQpQEAm-B6J1Zb8x-HLnQS4jbOlHAJJA0-WWJasTTPV-lcZeragxXTIkgnbQEGsIGKcH8GN6-15b3eNWAr9MfcigI9toQ";
const N_1024: &str = "zmtTcBiDfd3fcNQuOWUx_jA1jUEuxVOKOyot0YV4fFwfhgobCxs-oT02nN0q8R6c3NVR8cklp8Vg-hkcT1YCDpqgzvnOr4d5wCKb5gv2FCg4Hqye6SlOsDgeWyHH0gc1duAA5K82OL1QhGPKWtdaqUoE_ebjRFVa2geXAN07jTU";
const N_EVEN: &str = "zAP7tjSP1k1T723a6Yfr0voKfhByszFggSYeMyDHF3hIB509AZ9sKhR2Ctr8S_uwkBv4UYE07YKadDh0erQu8lupZLT-4vX1wMk77qTLeO77zt77IZ0xBFibvksVDht_dz1byptznUMViM1Lb3ZyLKy4hlAqJBp94FCLWaQMwzyrtWuRTD_a4Z7jITqG9R_rNhUDYAfaglOzTLybmdMMzkqcgmRhHHil9-701Iy8_m_0DvW8P9mwKH3dD-wMbWNuyKzsRxrti5MjShUKU8hHd_3mfViS_Aacogs_AlH2oVUuapnbOIfJUxoP5BR48fOkrfmcsdH5NCzY6YhpaEiAnA";
const P256: [&str; 2] =
    ["9-jCGc1m1rPD5EMIQLMQ0qraxVTim9NUHYkz65AjdXA", "-ob9ONmS6ZQLUZoz3Kh_RsEyW-sgwj-0YvBD8kVwnk8"];
const P256_OTHER: [&str; 2] =
    ["iy3p8avrWGyfPAC4dP6KRlp4D4rYDryEvXzYyOLTW6w", "Cb5tMj55Z4WLbErxQqWszRL0NYqM4J8AUXIi7Mw8-YU"];
const P384: [&str; 2] = [
    "4HN92Pl6aWIobd0KK-YAaKcoQE7BY5Rvd_jkuSlTXGVavsffD5S0MDKL3yg446Al",
    "dZ1Npj9ljObfpkgHi8l7HI9hLJSBcySdgGRjxuW0iwEVMPweosimNqUIddZSTQOj",
];
const P521: [&str; 2] = [
    "AO8S33QXbeHCOBRrv0q3ccTDrv_iY1uiWgnQNhjCBqKFOoPWV7tBzuXlgRujXECBKjTyCT1RvQiJPtonD4VaH7Wb",
    "AM9C7B_HZT5QSb2rQu9t0EqjsyUu3l2dDBZhGkQhu25bXn_z9wwxR99osStXnhLDzjDw9mMiIpl18PI8rYWLDqN9",
];
const K1: [&str; 2] =
    ["cjpnypa3VxOCPucao1JNsXBFKpG5RY5DosFSVqufF0M", "2rdFX02HSJmi1JSkVBcIxNiDD1v8sMu7LJkUdux5c_Q"];
const ED: &str = "guMgzYaaXWG-UnRrNJ89oZ0pgbGTztEnrc6Bu-vkmOE";
const X: &str = "gJfF897rOb9EpEv67pkUgUXwj9CZ0LKVRDWOZ6E_lFU";
const ED448: &str = "KC1GLIJRdybtj-EgHB5caOgNySRinJcZE9Gjn9FzQVSN_WRvyF9qwSdRxvc-zJSGkcVPuKIO7VKA";
const ED_SHORT: &str = "guMgzYaaXWG-UnRrNJ89oZ0pgbGTztEnrc6Bu-vkmA";
const PEM_RSA: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAzAP7tjSP1k1T723a6Yfr\n\
    0voKfhByszFggSYeMyDHF3hIB509AZ9sKhR2Ctr8S/uwkBv4UYE07YKadDh0erQu\n\
    8lupZLT+4vX1wMk77qTLeO77zt77IZ0xBFibvksVDht/dz1byptznUMViM1Lb3Zy\n\
    LKy4hlAqJBp94FCLWaQMwzyrtWuRTD/a4Z7jITqG9R/rNhUDYAfaglOzTLybmdMM\n\
    zkqcgmRhHHil9+701Iy8/m/0DvW8P9mwKH3dD+wMbWNuyKzsRxrti5MjShUKU8hH\n\
    d/3mfViS/Aacogs/AlH2oVUuapnbOIfJUxoP5BR48fOkrfmcsdH5NCzY6YhpaEiA\n\
    nQIDAQAB\n\
    -----END PUBLIC KEY-----";
const PEM_PKCS1: &str = "-----BEGIN RSA PUBLIC KEY-----\n\
    MIIBCgKCAQEAzAP7tjSP1k1T723a6Yfr0voKfhByszFggSYeMyDHF3hIB509AZ9s\n\
    KhR2Ctr8S/uwkBv4UYE07YKadDh0erQu8lupZLT+4vX1wMk77qTLeO77zt77IZ0x\n\
    BFibvksVDht/dz1byptznUMViM1Lb3ZyLKy4hlAqJBp94FCLWaQMwzyrtWuRTD/a\n\
    4Z7jITqG9R/rNhUDYAfaglOzTLybmdMMzkqcgmRhHHil9+701Iy8/m/0DvW8P9mw\n\
    KH3dD+wMbWNuyKzsRxrti5MjShUKU8hHd/3mfViS/Aacogs/AlH2oVUuapnbOIfJ\n\
    UxoP5BR48fOkrfmcsdH5NCzY6YhpaEiAnQIDAQAB\n\
    -----END RSA PUBLIC KEY-----";
const PEM_1024: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDOa1NwGIN93d9w1C45ZTH+MDWN\n\
    QS7FU4o7Ki3RhXh8XB+GChsLGz6hPTac3SrxHpzc1VHxySWnxWD6GRxPVgIOmqDO\n\
    +c6vh3nAIpvmC/YUKDgerJ7pKU6wOB5bIcfSBzV24ADkrzY4vVCEY8pa11qpSgT9\n\
    5uNEVVraB5cA3TuNNQIDAQAB\n\
    -----END PUBLIC KEY-----";
const PEM_E1: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIDANBgkqhkiG9w0BAQEFAAOCAQ0AMIIBCAKCAQEAzAP7tjSP1k1T723a6Yfr\n\
    0voKfhByszFggSYeMyDHF3hIB509AZ9sKhR2Ctr8S/uwkBv4UYE07YKadDh0erQu\n\
    8lupZLT+4vX1wMk77qTLeO77zt77IZ0xBFibvksVDht/dz1byptznUMViM1Lb3Zy\n\
    LKy4hlAqJBp94FCLWaQMwzyrtWuRTD/a4Z7jITqG9R/rNhUDYAfaglOzTLybmdMM\n\
    zkqcgmRhHHil9+701Iy8/m/0DvW8P9mwKH3dD+wMbWNuyKzsRxrti5MjShUKU8hH\n\
    d/3mfViS/Aacogs/AlH2oVUuapnbOIfJUxoP5BR48fOkrfmcsdH5NCzY6YhpaEiA\n\
    nQIBAQ==\n\
    -----END PUBLIC KEY-----";
const PEM_E2: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIDANBgkqhkiG9w0BAQEFAAOCAQ0AMIIBCAKCAQEAzAP7tjSP1k1T723a6Yfr\n\
    0voKfhByszFggSYeMyDHF3hIB509AZ9sKhR2Ctr8S/uwkBv4UYE07YKadDh0erQu\n\
    8lupZLT+4vX1wMk77qTLeO77zt77IZ0xBFibvksVDht/dz1byptznUMViM1Lb3Zy\n\
    LKy4hlAqJBp94FCLWaQMwzyrtWuRTD/a4Z7jITqG9R/rNhUDYAfaglOzTLybmdMM\n\
    zkqcgmRhHHil9+701Iy8/m/0DvW8P9mwKH3dD+wMbWNuyKzsRxrti5MjShUKU8hH\n\
    d/3mfViS/Aacogs/AlH2oVUuapnbOIfJUxoP5BR48fOkrfmcsdH5NCzY6YhpaEiA\n\
    nQIBAg==\n\
    -----END PUBLIC KEY-----";
const PEM_EVEN: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAzAP7tjSP1k1T723a6Yfr\n\
    0voKfhByszFggSYeMyDHF3hIB509AZ9sKhR2Ctr8S/uwkBv4UYE07YKadDh0erQu\n\
    8lupZLT+4vX1wMk77qTLeO77zt77IZ0xBFibvksVDht/dz1byptznUMViM1Lb3Zy\n\
    LKy4hlAqJBp94FCLWaQMwzyrtWuRTD/a4Z7jITqG9R/rNhUDYAfaglOzTLybmdMM\n\
    zkqcgmRhHHil9+701Iy8/m/0DvW8P9mwKH3dD+wMbWNuyKzsRxrti5MjShUKU8hH\n\
    d/3mfViS/Aacogs/AlH2oVUuapnbOIfJUxoP5BR48fOkrfmcsdH5NCzY6YhpaEiA\n\
    nAIDAQAB\n\
    -----END PUBLIC KEY-----";
const PEM_P256: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9+jCGc1m1rPD5EMIQLMQ0qraxVTi\n\
    m9NUHYkz65AjdXD6hv042ZLplAtRmjPcqH9GwTJb6yDCP7Ri8EPyRXCeTw==\n\
    -----END PUBLIC KEY-----";
const PEM_P384: &str = "-----BEGIN PUBLIC KEY-----\n\
    MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE4HN92Pl6aWIobd0KK+YAaKcoQE7BY5Rv\n\
    d/jkuSlTXGVavsffD5S0MDKL3yg446AldZ1Npj9ljObfpkgHi8l7HI9hLJSBcySd\n\
    gGRjxuW0iwEVMPweosimNqUIddZSTQOj\n\
    -----END PUBLIC KEY-----";
const PEM_ED: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAguMgzYaaXWG+UnRrNJ89oZ0pgbGTztEnrc6Bu+vkmOE=\n\
    -----END PUBLIC KEY-----";
const PEM_P521: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQA7xLfdBdt4cI4FGu/SrdxxMOu/+Jj\n\
    W6JaCdA2GMIGooU6g9ZXu0HO5eWBG6NcQIEqNPIJPVG9CIk+2icPhVoftZsAz0Ls\n\
    H8dlPlBJvatC723QSqOzJS7eXZ0MFmEaRCG7bltef/P3DDFH32ixK1eeEsPOMPD2\n\
    YyIimXXw8jythYsOo30=\n\
    -----END PUBLIC KEY-----";
const PEM_K1: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEcjpnypa3VxOCPucao1JNsXBFKpG5RY5D\n\
    osFSVqufF0Pat0VfTYdImaLUlKRUFwjE2IMPW/ywy7ssmRR27Hlz9A==\n\
    -----END PUBLIC KEY-----";
const PEM_X: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VuAyEAgJfF897rOb9EpEv67pkUgUXwj9CZ0LKVRDWOZ6E/lFU=\n\
    -----END PUBLIC KEY-----";
const PEM_ED448: &str = "-----BEGIN PUBLIC KEY-----\n\
    MEMwBQYDK2VxAzoAKC1GLIJRdybtj+EgHB5caOgNySRinJcZE9Gjn9FzQVSN/WRv\n\
    yF9qwSdRxvc+zJSGkcVPuKIO7VKA\n\
    -----END PUBLIC KEY-----";
const PEM_CERT: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBbjCCAROgAwIBAgIUbwhQUNyrLoXDAAkmXPmyzRVFRvcwCgYIKoZIzj0EAwIw\n\
    DDEKMAgGA1UEAwwBdDAeFw0yNjExMjQwMjU1MzNaFw0zNjExMjEwMjU1MzNaMAwx\n\
    CjAIBgNVBAMMAXQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAT36MIZzWbWs8Pk\n\
    QwhAsxDSqtrFVOKb01QdiTPrkCN1cPqG/TjZkumUC1GaM9yof0bBMlvrIMI/tGLw\n\
    Q/JFcJ5Po1MwUTAdBgNVHQ4EFgQUdFId3N/aTDHXYt7gLU/eXJbV4rowHwYDVR0j\n\
    BBgwFoAUdFId3N/aTDHXYt7gLU/eXJbV4rowDwYDVR0TAQH/BAUwAwEB/zAKBggq\n\
    hkjOPQQDAgNJADBGAiEAnIstd9V82OD5U2d4aYCSSg7jkW0lyaZsX6V7gMENZVwC\n\
    IQCqFG3DrabYTfwu1yPhF965elDJbn6QM5HiPVACjm0H8A==\n\
    -----END CERTIFICATE-----";
const PEM_OFF: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9+jCGc1m1rPD5EMIQLMQ0qraxVTi\n\
    m9NUHYkz65AjdXD6hv042ZLplAtRmjPcqH9GwTJb6yDCP7Ri8EPyRXCeTg==\n\
    -----END PUBLIC KEY-----";

fn rsa() -> Value {
    json!({ "kty": "RSA", "n": N, "e": "AQAB" })
}

fn ec(crv: &str, [x, y]: [&str; 2]) -> Value {
    json!({ "kty": "EC", "crv": crv, "x": x, "y": y })
}

fn okp(crv: &str, x: &str) -> Value {
    json!({ "kty": "OKP", "crv": crv, "x": x })
}

/// The key with these members too.
#[expect(clippy::needless_pass_by_value, reason = "callers write it in place")]
fn with(mut key: Value, members: Value) -> Value {
    key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    key
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn bad_keys() -> Vec<(&'static str, Value)> {
    let p256 = || ec("P-256", P256);
    let ed = || okp("Ed25519", ED);
    vec![
        ("J17 modulus of 1024 bits", with(rsa(), json!({ "n": N_1024 }))),
        ("J17 modulus even", with(rsa(), json!({ "n": N_EVEN }))),
        ("J19 modulus missing", json!({ "kty": "RSA", "e": "AQAB" })),
        ("J17 exponent 1", with(rsa(), json!({ "e": "AQ" }))),
        ("J17 exponent even", with(rsa(), json!({ "e": "AQAC" }))),
        ("J17 exponent empty", with(rsa(), json!({ "e": "" }))),
        ("J17 exponent of 9 bytes", with(rsa(), json!({ "e": "AQAAAAAAAAAB" }))),
        ("P3.4 P-256 off the curve", ec("P-256", [P256[0], P256_OTHER[1]])),
        ("P3.4 P-256 at zero", ec("P-256", [&"A".repeat(43), &"A".repeat(43)])),
        ("P3.4 P-384 off the curve", ec("P-384", [P384[1], P384[0]])),
        ("P3.4 P-256 with long coordinates", ec("P-256", P384)),
        ("P3.4 P-384 with short coordinates", ec("P-384", P256)),
        ("P3.4 P-256 with one coordinate", json!({ "kty": "EC", "crv": "P-256", "x": P256[0] })),
        ("J19 P-521", ec("J19 P-521", P521)),
        ("J19 secp256k1", ec("J19 secp256k1", K1)),
        ("P3.4 secp256k1 said to be P-256", ec("P-256", K1)),
        ("J19 X25519", okp("J19 X25519", X)),
        ("J19 Ed448", okp("J19 Ed448", ED448)),
        ("P3.4 Ed25519 of 31 bytes", okp("Ed25519", ED_SHORT)),
        ("P3.4 Ed25519 at zero", okp("Ed25519", &"A".repeat(43))),
        ("P3.4 Ed25519 neutral", okp("Ed25519", &format!("AQ{}", "A".repeat(41)))),
        ("P3.4 Ed25519 of order 8", okp("Ed25519", "JuiVj8KyJ7BFw_SJ8u-Y8NXfrAXTxjM5sTgCiG1T_AU")),
        ("J19 use enc", with(rsa(), json!({ "use": "enc" }))),
        ("J19 use null", with(rsa(), json!({ "use": null }))),
        ("J19 key_ops sign", with(rsa(), json!({ "key_ops": ["sign"] }))),
        ("J19 key_ops a text", with(rsa(), json!({ "key_ops": "verify" }))),
        ("P3.1c PS256 on EC", with(p256(), json!({ "alg": "PS256" }))),
        ("P3.1c ES384 on P-256", with(p256(), json!({ "alg": "ES384" }))),
        ("P3.1c ES256 on RSA", with(rsa(), json!({ "alg": "ES256" }))),
        ("X09 HS256 on RSA", with(rsa(), json!({ "alg": "HS256" }))),
        ("P3.1c RS256 on Ed25519", with(ed(), json!({ "alg": "RS256" }))),
        ("J19 alg unknown", with(rsa(), json!({ "alg": "RSA-OAEP" }))),
        ("X09 alg none", with(rsa(), json!({ "alg": "none" }))),
        ("J19 alg a number", with(rsa(), json!({ "alg": 1 }))),
        ("J19 RSA private", with(rsa(), json!({ "d": "AQAB" }))),
        ("J19 RSA private, a prime", with(rsa(), json!({ "p": "AQAB" }))),
        ("J19 EC private", with(p256(), json!({ "d": P256[0] }))),
        ("J19 Ed25519 private", with(ed(), json!({ "d": ED }))),
        ("J19 padding", with(rsa(), json!({ "n": format!("{N}==") }))),
        ("J19 padding of a point", okp("Ed25519", &format!("{ED}="))),
        ("J19 kid a number", with(ed(), json!({ "kid": 1 }))),
        ("J19 kid empty", with(ed(), json!({ "kid": "" }))),
        ("J19 kty unknown", json!({ "kty": "AKP", "x": ED })),
        ("J19 kty missing", json!({ "crv": "Ed25519", "x": ED })),
        ("J19 no object", json!("key")),
    ]
}

#[test]
fn good_keys_are_taken_by_their_algorithm() {
    for (key, algorithm) in [
        (rsa(), Algorithm::RS256),
        (with(rsa(), json!({ "alg": "PS512", "use": "sig", "key_ops": ["verify"] })), Algorithm::PS512),
        (with(rsa(), json!({ "e": "Aw" })), Algorithm::RS256),
        (ec("P-256", P256), Algorithm::ES256),
        (with(ec("P-384", P384), json!({ "alg": "ES384" })), Algorithm::ES384),
        (okp("Ed25519", ED), Algorithm::EdDSA),
        (with(okp("Ed25519", ED), json!({ "alg": "Ed25519" })), Algorithm::EdDSA),
    ] {
        let named = with(key, json!({ "kid": "one" }));
        let single = VerifyingKey::from_jwk(named.to_string()).unwrap();
        assert_eq!((single.algorithm(), single.kid()), (algorithm, Some("one")), "{named}");
        let keys = KeySet::from_jwks(set(&[named])).unwrap();
        assert_eq!(keys.iter().map(VerifyingKey::algorithm).collect::<Vec<_>>(), [algorithm]);
    }
}

#[test]
fn moduli_have_the_length_that_the_backend_verifies() {
    let longest = if cfg!(feature = "jwt") { 8192 } else { 4096 };
    for bits in [1024, 2040, 2047, 2048, 3072, 4096, 4097, 8192, 8193, 16_384] {
        // Odd, and as long as said.
        let mut n = vec![0xff; usize::div_ceil(bits, 8)];
        n[0] >>= (8 - bits % 8) % 8;
        let key = with(rsa(), json!({ "n": BASE64.encode(n) }));
        let good = (2048..=longest).contains(&bits);
        assert_eq!(VerifyingKey::from_jwk(key.to_string()).is_ok(), good, "J17 {bits}");
        assert_eq!(KeySet::from_jwks(set(&[key])).is_ok(), good, "{bits}");
    }
}

#[test]
fn bad_keys_are_refused_and_left_out() {
    for (name, key) in bad_keys() {
        assert!(VerifyingKey::from_jwk(key.to_string()).is_err(), "{name}");
        assert!(KeySet::from_jwks(set(std::slice::from_ref(&key))).is_err(), "{name}");
        let keys = KeySet::from_jwks(set(&[key, ec("P-256", P256)])).unwrap();
        assert_eq!(keys.len(), 1, "{name}");
    }
}

#[test]
fn sets_are_refused_as_a_whole() {
    let many: Vec<_> =
        (0..101).map(|kid| with(ec("P-256", P256), json!({ "kid": kid.to_string() }))).collect();
    assert_eq!(KeySet::from_jwks(set(&many[..100])).unwrap().len(), 100);
    let oct = json!({ "kty": "oct", "k": "N2YzYVg5MWtRdzBiVnQ1THpSOGNZcDJNZEU2dUhqNE4" });
    for (name, json) in [
        ("X43 more than 100", set(&many)),
        ("J20 an oct key", set(&[rsa(), oct])),
        ("empty", set(&[])),
        ("one key, no set", rsa().to_string()),
        ("a list", json!([rsa()]).to_string()),
        ("keys an object", json!({ "keys": rsa() }).to_string()),
        ("no JSON", "<html>".to_owned()),
        ("nothing", String::new()),
    ] {
        assert!(KeySet::from_jwks(json).is_err(), "{name}");
    }
}

#[test]
fn two_keys_of_one_name_are_both_out() {
    let named = |key| with(key, json!({ "kid": "one" }));
    let (first, second) = (named(ec("P-256", P256)), named(ec("P-256", P256_OTHER)));
    let other = ec("P-384", P384);
    let keys = KeySet::from_jwks(set(&[first.clone(), other.clone(), second.clone()])).unwrap();
    assert_eq!(keys.iter().map(VerifyingKey::algorithm).collect::<Vec<_>>(), [Algorithm::ES384]);
    assert!(KeySet::from_jwks(set(&[named(rsa()), named(with(rsa(), json!({ "n": N_OTHER })))])).is_err());
    // The same key twice is one; another algorithm is another key.
    assert_eq!(KeySet::from_jwks(set(&[first.clone(), first.clone()])).unwrap().len(), 1);
    assert_eq!(KeySet::from_jwks(set(&[first, named(other)])).unwrap().len(), 2);
}

#[tokio::test]
async fn a_good_key_among_bad_ones_verifies() {
    let (issuer, audience) = ("https://login.example", "https://api.example");
    let own = JwtIssuer::ed25519(b"7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N", issuer, audience).unwrap();
    let good: Value = serde_json::from_str(&own.jwks()).unwrap();
    let mut keys: Vec<_> = bad_keys().into_iter().map(|(_, key)| key).collect();
    keys.insert(keys.len() / 2, good["keys"][0].clone());
    let keys = KeySet::from_jwks(set(&keys)).unwrap();
    assert_eq!(keys.len(), 1);
    let auth = JwtAuth::keys(&keys).issuer(issuer).audience(audience).build().unwrap();
    let layer: AuthLayer = AuthLayer::new(auth);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let token = own.token(&UserId::new("alice").unwrap()).unwrap();
    let request = Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
}

#[test]
fn public_keys_in_pem_are_taken() {
    for (algorithm, pem) in [
        (Algorithm::RS256, PEM_RSA),
        (Algorithm::PS384, PEM_RSA),
        (Algorithm::RS512, PEM_PKCS1),
        (Algorithm::ES256, PEM_P256),
        (Algorithm::ES384, PEM_P384),
        (Algorithm::EdDSA, PEM_ED),
    ] {
        assert_eq!(VerifyingKey::from_pem(algorithm, pem).unwrap().algorithm(), algorithm);
        // Each is refused for what it is not, and as a secret.
        let wrong = if algorithm == Algorithm::ES256 { Algorithm::ES384 } else { Algorithm::ES256 };
        assert!(VerifyingKey::from_pem(wrong, pem).is_err(), "{pem}");
        assert!(VerifyingKey::from_pem(Algorithm::HS256, pem).is_err(), "{pem}");
        assert!(VerifyingKey::hmac(Algorithm::HS256, pem).is_err(), "{pem}");
    }
}

#[test]
fn other_things_in_pem_give_a_sentence() {
    let private = |label: &str| format!("-----BEGIN {label}-----\nMAMCAQA=\n-----END {label}-----\n");
    let none_of = "none of RSA, P-256, P-384 and Ed25519";
    for (name, algorithm, pem, part) in [
        ("J17 exponent 1", Algorithm::RS256, PEM_E1.to_owned(), "exponent"),
        ("J17 exponent 2", Algorithm::PS256, PEM_E2.to_owned(), "exponent"),
        ("J17 even", Algorithm::RS512, PEM_EVEN.to_owned(), "even"),
        ("J17 1024 bits", Algorithm::RS256, PEM_1024.to_owned(), "2048"),
        ("P3.4 off the curve", Algorithm::ES256, PEM_OFF.to_owned(), "no point of its curve"),
        ("P-521", Algorithm::ES384, PEM_P521.to_owned(), none_of),
        ("secp256k1", Algorithm::ES256, PEM_K1.to_owned(), none_of),
        ("X25519", Algorithm::EdDSA, PEM_X.to_owned(), none_of),
        ("Ed448", Algorithm::EdDSA, PEM_ED448.to_owned(), none_of),
        ("certificate", Algorithm::ES256, PEM_CERT.to_owned(), "not a certificate"),
        ("PKCS #8", Algorithm::RS256, private("PRIVATE KEY"), "not a private key"),
        ("PKCS #1", Algorithm::RS256, private("RSA PRIVATE KEY"), "not a private key"),
        ("SEC 1", Algorithm::ES256, private("EC PRIVATE KEY"), "not a private key"),
        ("ssh private", Algorithm::EdDSA, private("OPENSSH PRIVATE KEY"), "not a private key"),
        (
            "ssh",
            Algorithm::EdDSA,
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me".to_owned(),
            "no public key in PEM",
        ),
        ("empty", Algorithm::RS256, String::new(), "no public key in PEM"),
    ] {
        let sentence = VerifyingKey::from_pem(algorithm, pem).unwrap_err().to_string();
        assert!(sentence.contains(part), "{name}: {sentence}");
    }
}

#[test]
fn secrets_are_as_long_as_their_hash() {
    let secret = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf";
    for (algorithm, bytes) in [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)] {
        assert!(VerifyingKey::hmac(algorithm, &secret[..bytes]).is_ok(), "{algorithm:?}");
        assert!(VerifyingKey::hmac(algorithm, &secret[..bytes - 1]).is_err(), "J16 {algorithm:?}");
    }
    assert!(VerifyingKey::hmac(Algorithm::RS256, secret).is_err());
}
