//! JSON Web Tokens, checked all the way.

mod claims;
mod compact;
mod fetch;
mod json;
mod jwk;
mod key;
mod pem;
mod remote;
mod secret;
