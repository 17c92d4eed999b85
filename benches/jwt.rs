//! What a JSON Web Token costs on its way through the layer: `cargo bench --bench jwt`.
//!
//! All cases run by turns in one process, as in `hot_path.rs`; see `support/mod.rs` for what is measured.
//! With the signatures of AWS-LC:
//!
//! | case | what |
//! |---|---|
//! | `key hit` | an API key in the cache, with the layer's defaults: the measure for `seen` |
//! | `<algorithm> seen` | the layer with its defaults, the token in the cache among many others |
//! | `<algorithm> first` | the layer, with tokens that it does not know: each is verified, kept, and displaces another |
//! | `<algorithm> bare` | `jsonwebtoken::decode` alone, with the key made before and the same rules |
//!
//! `rivals/` runs the same cases beside other crates that verify tokens.
//!
//! It fails when a limit on instructions is exceeded. A limit on time only warns.

#![expect(unsafe_code, reason = "the counting allocator and the breakpoint; the crate itself has none")]
#![expect(clippy::expect_used, reason = "a bench stops where its setup fails")]

mod support;

#[path = "support/issuer.rs"]
mod issuer;
#[path = "support/jwt_cases.rs"]
mod jwt_cases;
#[expect(dead_code, reason = "nothing is refused here")]
#[path = "support/runs.rs"]
mod runs;
#[path = "support/turns.rs"]
mod turns;

use std::process::ExitCode;

use crate::{
    jwt_cases::{CASES, KEY_HIT},
    support::report::{Gate, Report},
    turns::{Results, run_all},
};

fn main() -> ExitCode {
    run_all(CASES, judge)
}

fn judge(results: &Results) -> Report {
    let mut report = Report::default();
    for algorithm in ["HS256", "EdDSA", "RS256", "ES256"] {
        let [seen, first, bare] =
            ["seen", "first", "bare"].map(|case| results.find(&format!("{algorithm} {case}")));
        for (of, to, limit, gate) in [
            (seen, results.find(KEY_HIT), 1.25, Gate::Must),
            (first, bare, 1.0, Gate::Must),
            (bare, seen, 0.0, Gate::Told),
        ] {
            let what = format!("ratio {} / {}", of.name, to.name);
            report.line(&format!("{what} instructions"), of.instructions_over(to), limit, gate);
            let gate = if gate == Gate::Told { Gate::Told } else { Gate::Warn };
            report.line(&format!("{what} time"), Some(of.time_over(to)), limit, gate);
        }
    }
    report
}
