//! What the benches share: the request, the service behind the layers, and the three measures.
//!
//! * **Time** is the CPU time of the thread, so that neighbours on the machine count less.
//! * **Instructions** are retired user instructions on the real processor, counted by a program that
//!   starts this bench anew and single-steps it between two breakpoints. Its path is in the environment
//!   variable `KEYWARD_SINGLESTEP`; without it no instructions are counted.
//! * **Allocations** are counted for each thread by this module's allocator.

pub(crate) mod alloc;
pub(crate) mod measure;
pub(crate) mod report;
pub(crate) mod service;
