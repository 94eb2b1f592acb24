use std::fmt;
use std::time::Duration;

use super::Unmet;

/// How one scenario went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The backing does what the contract says.
    Passed,
    /// The backing does not promise what the scenario looks at: the one of its [`Features`](super::Features)
    /// that would have to be there.
    Skipped(&'static str),
    /// It does something else.
    Failed(Unmet),
}

/// One scenario of a report.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Line {
    /// The scenario's name.
    pub scenario: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// How long it took, in real time.
    pub took: Duration,
}

/// How all scenarios went over one backing. Its `Display` is a table.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody looks at proves nothing"]
pub struct Report {
    pub(super) backing: String,
    pub(super) lines: Vec<Line>,
}

impl Report {
    /// Every scenario, in the order of the contract.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Line> {
        self.lines
            .iter()
            .filter(|line| matches!(line.verdict, Verdict::Failed(_)))
    }

    /// Whether none failed, and there was one to pass.
    #[must_use]
    pub fn passed(&self) -> bool {
        let mut lines = self.lines.iter();
        let has_passed = lines.any(|line| matches!(line.verdict, Verdict::Passed));
        has_passed && self.failed().next().is_none()
    }

    /// # Panics
    /// With the table, when a scenario failed or none passed.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.passed(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.lines.iter().map(|line| line.scenario.len()).max();
        let width = longest.unwrap_or_default();
        writeln!(f, "conformance of {}", self.backing)?;
        let (mut passed, mut skipped) = (0, 0);
        for line in &self.lines {
            let name = line.scenario;
            write!(f, "  {name:width$}  ")?;
            match &line.verdict {
                Verdict::Passed => {
                    passed += 1;
                    writeln!(f, "passed   {:>6.1} ms", line.took.as_secs_f64() * 1e3)?;
                }
                Verdict::Skipped(feature) => {
                    skipped += 1;
                    writeln!(f, "skipped  not promised: {feature}")?;
                }
                Verdict::Failed(unmet) => writeln!(f, "FAILED   {unmet}")?,
            }
        }
        let failed = self.lines.len() - passed - skipped;
        write!(f, "{passed} passed, {skipped} skipped, {failed} failed")
    }
}
