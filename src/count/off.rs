//! Nothing is counted.

use super::Cache;
use crate::{error::Scheme, time::UnixTime};

#[derive(Debug)]
pub(crate) struct Counter;

impl Counter {
    pub(crate) const fn new() -> Self {
        Self
    }

    #[inline]
    pub(crate) fn add(&self, _: u64) {}
}

#[inline]
pub(crate) fn accepted(_: Scheme) {}

#[inline]
pub(crate) fn hit(_: Cache) {}

#[derive(Debug)]
pub(crate) struct Names;

impl Names {
    pub(crate) const fn new() -> Self {
        Self
    }

    #[inline]
    pub(crate) fn add(&self, _: &'static str) {}
}

#[derive(Debug)]
pub(crate) struct Sum;

impl Sum {
    pub(crate) const fn new() -> Self {
        Self
    }
}

#[derive(Debug)]
pub(crate) struct Level;

impl Level {
    #[inline]
    pub(crate) fn of(_: &'static Sum) -> Self {
        Self
    }

    #[inline]
    pub(crate) fn set(&self, _: usize) {}
}

#[derive(Debug)]
pub(crate) struct Oldest;

impl Oldest {
    pub(crate) const fn new() -> Self {
        Self
    }
}

#[derive(Debug)]
pub(crate) struct Stamp;

impl Stamp {
    #[inline]
    pub(crate) fn of(_: &'static Oldest) -> Self {
        Self
    }

    #[inline]
    pub(crate) fn set(&self, _: UnixTime) {}
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer;

impl Timer {
    #[inline]
    pub(crate) fn start() -> Self {
        Self
    }

    #[inline]
    pub(crate) fn observe_verdict(self, _: Scheme) {}

    #[cfg(feature = "_jwt")]
    #[inline]
    pub(crate) fn observe_verification(self) {}

    #[inline]
    pub(crate) fn observe_flush(self) {}
}
