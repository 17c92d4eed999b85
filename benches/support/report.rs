//! Ratios, their limits, and whether the bench fails.

use std::process::ExitCode;

/// What it means that a limit does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// The bench fails.
    Must,
    /// A warning: time depends on the machine and its neighbours.
    Warn,
    /// Nothing; it is only told.
    Told,
}

/// The lines at the end of a bench.
#[derive(Debug, Default)]
pub(crate) struct Report {
    failed: bool,
}

impl Report {
    /// Writes `<what> <value> <limit> <verdict>`: the value may be up to the limit. A value that was not
    /// measured cannot fail.
    pub(crate) fn line(&mut self, what: &str, value: Option<f64>, limit: f64, gate: Gate) {
        self.judged(what, value, limit, gate, value.is_some_and(|value| value <= limit), "exceeded");
    }

    /// As [`line`](Self::line), but the value must reach the limit.
    #[allow(dead_code, reason = "not every bench has such a limit")]
    pub(crate) fn at_least(&mut self, what: &str, value: Option<f64>, limit: f64, gate: Gate) {
        self.judged(what, value, limit, gate, value.is_some_and(|value| value >= limit), "not reached");
    }

    fn judged(&mut self, what: &str, value: Option<f64>, limit: f64, gate: Gate, holds: bool, flaw: &str) {
        let verdict = match gate {
            _ if value.is_none() => "not measured".to_owned(),
            Gate::Told => "told".to_owned(),
            _ if holds => "ok".to_owned(),
            Gate::Warn => format!("warning: {flaw}"),
            Gate::Must => {
                self.failed = true;
                flaw.to_uppercase()
            }
        };
        println!("{what} {} {} {verdict}", number(value), number(Some(limit).filter(|_| gate != Gate::Told)));
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Three digits, or `-` for what was not measured.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.3}"),
        None => "-".to_owned(),
    }
}
