use std::fmt::Display;

/// Makes handler values: one at the start of each worker, and a fresh one after every failure of it.
pub trait Factory<H>: Send + Sync + 'static {
    /// Makes one, or says why not; that counts as a restart.
    fn make(&self) -> impl Future<Output = Result<H, String>>;
}

/// A factory that always succeeds, short of a panic.
pub struct Infallible<F>(pub(crate) F);

impl<H, F: Fn() -> H + Send + Sync + 'static> Factory<H> for Infallible<F> {
    async fn make(&self) -> Result<H, String> {
        Ok((self.0)())
    }
}

/// A factory that may wait and may fail.
pub struct Fallible<F>(pub(crate) F);

impl<H, E, F> Factory<H> for Fallible<F>
where
    E: Display,
    F: AsyncFn() -> Result<H, E> + Send + Sync + 'static,
{
    async fn make(&self) -> Result<H, String> {
        (self.0)().await.map_err(|error| error.to_string())
    }
}
