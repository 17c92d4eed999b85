//! Whom tokens must be from and for, and how to say that it does not matter.

/// Accepts tokens of any issuer, and tokens that name none: for [`JwtBuilder::issuer`](super::JwtBuilder::issuer). Only the keys then say
/// whom to believe.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct AnyIssuer;

/// Accepts tokens that were made for anybody: for [`JwtBuilder::audience`](super::JwtBuilder::audience). A token that a user gave to
/// another service is then good here as well.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct AnyAudience;

/// What [`JwtBuilder::issuer`](super::JwtBuilder::issuer) takes: the issuer's name, or [`AnyIssuer`].
pub trait IntoIssuer: sealed::Sealed {
    #[doc(hidden)]
    fn into_issuer(self) -> Option<Box<str>>;
}

/// What [`JwtBuilder::audience`](super::JwtBuilder::audience) takes: one name, several of which one is enough, or [`AnyAudience`].
pub trait IntoAudience: sealed::Sealed {
    #[doc(hidden)]
    fn into_audience(self) -> Option<Box<[Box<str>]>>;
}

impl IntoIssuer for AnyIssuer {
    fn into_issuer(self) -> Option<Box<str>> {
        None
    }
}

impl IntoAudience for AnyAudience {
    fn into_audience(self) -> Option<Box<[Box<str>]>> {
        None
    }
}

impl IntoIssuer for &str {
    fn into_issuer(self) -> Option<Box<str>> {
        Some(self.into())
    }
}

impl IntoIssuer for String {
    fn into_issuer(self) -> Option<Box<str>> {
        Some(self.into())
    }
}

impl IntoAudience for &str {
    fn into_audience(self) -> Option<Box<[Box<str>]>> {
        Some([self.into()].into())
    }
}

impl IntoAudience for String {
    fn into_audience(self) -> Option<Box<[Box<str>]>> {
        Some([self.into()].into())
    }
}

impl<const N: usize> IntoAudience for [&str; N] {
    fn into_audience(self) -> Option<Box<[Box<str>]>> {
        Some(self.iter().map(|audience| Box::from(*audience)).collect())
    }
}

impl IntoAudience for Vec<String> {
    fn into_audience(self) -> Option<Box<[Box<str>]>> {
        Some(self.into_iter().map(String::into_boxed_str).collect())
    }
}

impl IntoAudience for &[&str] {
    fn into_audience(self) -> Option<Box<[Box<str>]>> {
        Some(self.iter().map(|audience| Box::from(*audience)).collect())
    }
}

/// Only this crate says what can be an issuer or an audience.
mod sealed {
    pub trait Sealed {}
    impl Sealed for super::AnyIssuer {}
    impl Sealed for super::AnyAudience {}
    impl Sealed for &str {}
    impl Sealed for String {}
    impl<const N: usize> Sealed for [&str; N] {}
    impl Sealed for Vec<String> {}
    impl Sealed for &[&str] {}
}
