use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The identity of a message: a UUID of version 7 (RFC 9562, section 5.7).
///
/// Ids made on one thread rise strictly. Over threads and processes they are unique by 61 random bits a
/// thread and millisecond, and in order only by the time, which is as exact as a coarse clock (some 4 ms).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

/// A text that is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: {0}")]
pub struct ParseIdError(String);

const VERSION: u64 = 0x7 << 12;
const VARIANT: u64 = 0b10 << 62;
/// The 74 bits that are not time, version or variant are a counter within the millisecond: so many of them
/// before the variant, and so many after it.
const HIGH_BITS: u32 = 12;
const LOW_BITS: u32 = 62;

/// The counter is kept in two: its highest bits, which stand before the variant, and the rest.
#[derive(Clone, Copy)]
struct Generator {
    millis: u64,
    high: u64,
    low: u64,
}

thread_local! {
    static GENERATOR: Cell<Generator> = const { Cell::new(Generator { millis: 0, high: 0, low: 0 }) };
}

impl Generator {
    /// At random, and with its top bit free, so that a millisecond can not use the counter up.
    #[cold]
    fn start(millis: u64) -> Self {
        Self {
            millis,
            high: fastrand::u64(..) >> (64 - HIGH_BITS + 1),
            low: fastrand::u64(..) >> (64 - LOW_BITS),
        }
    }
}

impl MessageId {
    /// A new id, of this moment.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "no id is the default one")]
    #[inline]
    pub fn new() -> Self {
        Self::new_at(coarse_now_ms())
    }

    /// RFC 9562, section 6.2, method 2: a counter that starts at random in each millisecond.
    #[inline]
    pub(crate) fn new_at(millis: u64) -> Self {
        GENERATOR.with(|generator| {
            let mut state = generator.get();
            if millis > state.millis {
                state = Generator::start(millis);
            } else {
                // The same millisecond, or a clock that went back: the order is kept.
                state.low += 1;
                if state.low >> LOW_BITS != 0 {
                    state.low = 0;
                    state.high += 1;
                    if state.high >> HIGH_BITS != 0 {
                        state = Generator::start(state.millis + 1);
                    }
                }
            }
            generator.set(state);
            let before = state.millis << 16 | VERSION | state.high;
            Self(u128::from(before) << 64 | u128::from(VARIANT | state.low))
        })
    }

    /// An id from its 128 bits, of whatever UUID version.
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// The 128 bits.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// When it was made, if it is of version 7.
    #[must_use]
    pub fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.millis())
    }

    pub(crate) fn millis(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl From<Uuid> for MessageId {
    fn from(id: Uuid) -> Self {
        Self(id.as_u128())
    }
}

impl From<MessageId> for Uuid {
    fn from(id: MessageId) -> Self {
        Self::from_u128(id.0)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from(*self).hyphenated().fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text)
            .map(Self::from)
            .map_err(|error| ParseIdError(error.to_string()))
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Milliseconds since the Unix epoch by a clock that costs a few nanoseconds to read.
#[inline]
pub(crate) fn coarse_now_ms() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        seconds * 1000 + nanos / 1_000_000
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn is_a_version_7_uuid_of_its_time() {
        let id = MessageId::new_at(1_700_000_000_123);
        let uuid = Uuid::from(id);
        assert_eq!(
            (uuid.get_version_num(), uuid.get_variant()),
            (7, uuid::Variant::RFC4122)
        );
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("no".parse::<MessageId>().is_err());
    }

    #[test]
    fn rises_on_a_thread_though_the_clock_goes_back() {
        let mut last = MessageId::new_at(5_000);
        for millis in [5_000, 4_000, 5_001, 1, 5_001, 6_000] {
            for _ in 0..1_000 {
                let next = MessageId::new_at(millis);
                assert!(next > last);
                last = next;
            }
        }
    }

    #[test]
    fn is_unique_over_threads() {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| (0..50_000).map(|_| MessageId::new()).collect::<Vec<_>>())
            })
            .collect();
        let all: Vec<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
