use std::error::Error;
use std::fmt;
use std::time::Duration;

/// What a handler returns: `Ok` acknowledges, nothing else does (contract, rule 3).
pub type Outcome = Result<(), Failure>;

/// What a failed attempt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Again, by the policy.
    Retry,
    /// Again after this long; counts as an attempt like any other.
    RetryAfter(Duration),
    /// A dead letter at once.
    Reject,
    /// Gone, but for its count.
    Discard,
}

/// Why an attempt failed, and what is to be done.
///
/// Any `Error + Send + Sync + 'static` becomes one by `?`, and then means: retry by the policy, or whatever
/// [`Retry::classify`](crate::Retry::classify) says of it. An explicit verdict wins over both. It is not an
/// [`Error`] itself, which is what lets `?` work. `anyhow::Error` and boxed errors are none either:
/// `.map_err(Failure::new)?`. Of an `anyhow::Error` that was made a box a classifier can read the text and the sources, but not
/// its type.
///
/// | what went wrong | say |
/// |---|---|
/// | the policy is to say | `?`, or [`new`](Self::new) |
/// | it may work next time | [`retry`](Self::retry) |
/// | it will work at a known time (a rate limit) | [`retry_after`](Self::retry_after) |
/// | it can never work, and someone should look | [`reject`](Self::reject) |
/// | it can never work, and nobody cares | [`discard`](Self::discard) |
///
/// ```
/// use postroom::{Failure, Outcome};
///
/// fn parse(text: &str) -> Outcome {
///     let number: u32 = text.parse()?; // retried by the policy
///     if number == 0 {
///         return Err(Failure::reject("zero is never valid")); // a dead letter at once
///     }
///     Ok(())
/// }
/// assert!(parse("7").is_ok() && parse("0").is_err());
/// ```
#[must_use = "a failure fails nothing until the handler returns it"]
pub struct Failure(Box<Inner>);

struct Inner {
    verdict: Option<Verdict>,
    error: Box<dyn Error + Send + Sync>,
}

/// The most sources that are kept of an error, and the most characters of each.
const CHAIN: usize = 16;
const TEXT: usize = 1000;

impl Failure {
    fn with(verdict: Option<Verdict>, error: Box<dyn Error + Send + Sync>) -> Self {
        Self(Box::new(Inner { verdict, error }))
    }

    /// As by `?`, for what is boxed already: the classifier sees the error itself, not its box.
    ///
    /// ```
    /// use postroom::{Failure, Outcome};
    ///
    /// fn call() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     # Ok(())
    ///     // …
    /// }
    ///
    /// fn handle() -> Outcome {
    ///     call().map_err(Failure::new)
    /// }
    /// # assert!(handle().is_ok());
    /// ```
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(None, error.into())
    }

    /// Again, by the policy, whatever the policy's classifier says.
    pub fn retry(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(Some(Verdict::Retry), error.into())
    }

    /// Again after `delay`, for as long as attempts are left.
    pub fn retry_after(delay: Duration, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(Some(Verdict::RetryAfter(delay)), error.into())
    }

    /// A dead letter at once.
    pub fn reject(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(Some(Verdict::Reject), error.into())
    }

    /// Not worth keeping: counted as discarded.
    pub fn discard(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::with(Some(Verdict::Discard), error.into())
    }

    /// What was asked for explicitly.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.0.verdict
    }

    /// The error.
    #[must_use]
    pub fn error(&self) -> &(dyn Error + 'static) {
        &*self.0.error
    }

    /// The error and its sources, outermost first: at most 16, each cut at 1,000 characters.
    #[must_use]
    pub fn chain(&self) -> Vec<String> {
        let mut chain = Vec::new();
        let mut next = Some(self.error());
        while let Some(error) = next
            && chain.len() < CHAIN
        {
            chain.push(error.to_string().chars().take(TEXT).collect());
            next = error.source();
        }
        chain
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::with(None, Box::new(error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("verdict", &self.0.verdict)
            .field("error", &self.0.error)
            .finish()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}
