//! What a frame of AMQP begins with.

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;

/// Bytes of type, channel and size.
pub(super) const HEAD: usize = 7;
