//! What a key costs on its way through the layer: `cargo bench --bench hot_path`.
//!
//! All cases run by turns in one process, each a tower service round one that does nothing; see
//! `support/mod.rs` for what is measured. For instructions as well, on x86-64 Linux:
//! `KEYWARD_SINGLESTEP=<path of a single-stepping counter> cargo bench --bench hot_path`.
//!
//! | case | what |
//! |---|---|
//! | `none` | no layer at all |
//! | `floor` | the least that a key check can be: header, SHA-256, one look-up, the same two extensions |
//! | `hit` | the layer with its defaults, the key in the cache |
//! | `floor_ip`, `hit_ip` | both with the peer's address known, and the key limited to it |
//! | `miss` | the layer with a cache that forgets at once, the memory store behind it |
//! | `junk_checksum`, `junk_prefix` | keys that were never issued, as far as the verdict |
//! | `revoked` | a revoked key that the cache remembers; the copy of the request included |
//! | `copy` | what copying and dropping the request costs in `revoked` |
//! | `hand` | what a careful user writes: tower-http's async authorization, SHA-256 and a map |
//!
//! It fails when a limit on instructions or allocations is exceeded. A limit on time only warns.

#![expect(unsafe_code, reason = "the counting allocator and the breakpoint; the crate itself has none")]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a bench stops where its setup fails")]

mod support;

#[path = "hot_path/cases.rs"]
mod cases;
