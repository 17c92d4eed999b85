//! The URLs that may be asked.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::error::ConfigError;

/// Reads an absolute URL: `https`, or `http` to this machine, without user name, password and fragment. `what`
/// is what the URL is called, such as `a URL of keys`.
///
/// # Errors
/// If it is anything else. The text does not repeat the URL, which may hold a password.
pub(crate) fn check_url(what: &str, url: &str) -> Result<Uri, ConfigError> {
    let refused = |why: &str| Err(ConfigError::new(format!("{what} must {why}")));
    // `Uri` drops a fragment without a word.
    if url.contains('#') {
        return refused("not have a fragment (`#`)");
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return refused("be absolute, such as `https://login.example.com/path`");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return refused("be absolute, such as `https://login.example.com/path`");
    };
    if authority.as_str().contains('@') {
        return refused("not hold a user name or password");
    }
    let host = authority.host();
    if host.is_empty() || (authority.as_str().len() > host.len() && authority.port_u16().is_none()) {
        return refused("have a host, and a port from 1 to 65535 if any");
    }
    match scheme {
        "https" => Ok(uri),
        "http" if is_loopback(host) => Ok(uri),
        _ => refused("begin with `https://`; `http://` is for this machine only"),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_asked_over_https_only() {
        for good in [
            "https://login.example.com/keys?v=1",
            "https://login.example.com:8443",
            "HTTPS://login.example.com/",
            "http://localhost:8080/keys",
            "http://LOCALHOST/keys",
            "http://127.0.0.1:1/keys",
            "http://127.9.9.9/keys",
            "http://[::1]:8080/keys",
        ] {
            assert!(check_url("a URL", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/keys",
            "login.example.com",
            "login.example.com/keys",
            "http://login.example.com/keys",
            "http://10.0.0.1/keys",
            "http://localhost.example.com/keys",
            "http://127.0.0.1.example.com/",
            "http://2130706433/",
            "http://[::ffff:10.0.0.1]/",
            "http://localhost@example.com/keys",
            "https://user:password@login.example.com/keys",
            "https://login.example.com/keys#one",
            "https://login.example.com:99999/keys",
            "https://login.example.com:/keys",
            "https://:443/keys",
            "https://login example.com/",
            "https://login.example.com/\nkeys",
            "ftp://login.example.com/keys",
            "file:///etc/keys",
        ] {
            let error = check_url("a URL", bad).expect_err(bad).to_string();
            assert!(!error.contains("password@"), "{error}");
        }
    }
}
