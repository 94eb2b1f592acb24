/// A named point at which a test may let the process die, as by `kill -9`: nothing is dropped, nothing is flushed.
///
/// The environment variable `POSTROOM_CRASH` names the point; `name:3` is its third passing. Only with the feature
/// `testing`; without it nothing is left of it.
#[cfg(feature = "testing")]
pub(crate) fn crash_point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("POSTROOM_CRASH").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), nth.parse().unwrap_or(1)))
    });
    if let Some((wanted, nth)) = wanted
        && wanted == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        std::process::abort();
    }
}

#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) fn crash_point(_: &str) {}
