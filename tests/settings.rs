//! The tests of the example service's settings, which `cargo test` does not run inside of an example.
#![allow(dead_code, reason = "only the tests beside the code are wanted here")]

#[path = "../examples/key_service/settings.rs"]
mod settings;
