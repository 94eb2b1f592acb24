/// What a bus does that is started while RabbitMQ, or its database, is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenDown {
    /// It starts, its health is unready, and it keeps trying.
    #[default]
    KeepTrying,
    /// [`Builder::start`](crate::Builder::start) fails: for RabbitMQ after the connect timeout of each URL, for a
    /// database after 5 s.
    Fail,
}
