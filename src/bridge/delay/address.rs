use std::fmt;

use super::entry::DIGITS_LENGTH;
use crate::message::{NameError, validate_length};

/// The longest address: what the digits of the delay leave of a routing key's 255 bytes.
const LONGEST: usize = 255 - DIGITS_LENGTH;

/// A queue's name as the one last word of a routing key.
///
/// A dot is written as `:`; what would be misread (`:`, `%`, and the wildcards `*` and `#`) as `%` and two
/// hexadecimal digits. So two queues never have the same address, and a person can read it. A name whose address
/// does not fit is refused at the start, rather than shortened to something that two names might share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::bridge) struct Address(String);

impl Address {
    /// The address of a queue.
    ///
    /// # Errors
    /// When it has over 191 bytes.
    pub(in crate::bridge) fn new(queue: &str) -> Result<Self, NameError> {
        let mut address = String::with_capacity(queue.len());
        for char in queue.chars() {
            match char {
                '.' => address.push(':'),
                ':' => address.push_str("%3A"),
                '%' => address.push_str("%25"),
                '*' => address.push_str("%2A"),
                '#' => address.push_str("%23"),
                other => address.push(other),
            }
        }
        validate_length("queue that messages are delayed for", &address, LONGEST)?;
        Ok(Self(address))
    }

    pub(in crate::bridge) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The way back, which the bridge does not need: that there is one shows that no two queues share an address.
    fn queue(address: &Address) -> String {
        let mut queue = address.as_str().replace(':', ".");
        for (code, char) in [("%3A", ":"), ("%2A", "*"), ("%23", "#"), ("%25", "%")] {
            queue = queue.replace(code, char);
        }
        queue
    }

    proptest! {
        #[test]
        fn leads_back_to_its_queue(name in "[a-c.:%*#2-5Aü]{1,40}") {
            let address = Address::new(&name).unwrap();
            prop_assert!(!address.as_str().contains(['.', '*', '#']));
            prop_assert_eq!(queue(&address), name);
        }

        #[test]
        fn differs_for_different_queues(one in "[.:%23A]{1,6}", other in "[.:%23A]{1,6}") {
            prop_assume!(one != other);
            prop_assert_ne!(Address::new(&one).unwrap(), Address::new(&other).unwrap());
        }
    }

    #[test]
    fn is_readable_and_fits_or_is_refused() {
        assert_eq!(Address::new("shop.mailer").unwrap().as_str(), "shop:mailer");
        assert_eq!(Address::new("#").unwrap().as_str(), "%23");
        assert!(Address::new(&"q".repeat(191)).is_ok());
        for name in ["q".repeat(192), "%".repeat(64), "ü".repeat(96)] {
            assert!(matches!(
                Address::new(&name),
                Err(NameError::TooLong { most: 191, .. })
            ));
        }
    }
}
