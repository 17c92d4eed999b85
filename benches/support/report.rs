//! Ratios, their limits, and whether the bench fails.

use std::process::ExitCode;

/// What exceeding a limit means.
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
    exceeded: bool,
}

impl Report {
    /// Writes `<what> <value> <limit> <verdict>`. A value that was not measured cannot fail.
    pub(crate) fn line(&mut self, what: &str, value: Option<f64>, limit: f64, gate: Gate) {
        let verdict = match (value, gate) {
            (None, _) => "not measured",
            (Some(_), Gate::Told) => "told",
            (Some(value), _) if value <= limit => "ok",
            (Some(_), Gate::Warn) => "warning: exceeded",
            (Some(_), Gate::Must) => {
                self.exceeded = true;
                "EXCEEDED"
            }
        };
        println!("{what} {} {} {verdict}", number(value), number(Some(limit).filter(|_| gate != Gate::Told)));
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.exceeded { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
