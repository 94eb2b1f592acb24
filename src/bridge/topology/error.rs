use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

use super::plan::PlanObject;

/// Why the broker's exchanges, queues and bindings are not as they should be.
///
/// Only [`Connection`](Self::Connection) may pass by itself; the others stay until somebody changes the broker or
/// the program, so that trying again at once is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// It is there, but made otherwise. RabbitMQ cannot change it: delete it when it is empty, or ask for what is
    /// there.
    #[error("{object} is there with another `{argument}`: wanted {wanted}, found {found}")]
    #[non_exhaustive]
    Mismatch {
        /// What was declared.
        object: String,
        /// The argument or property that differs, such as `x-queue-type`, `type` or `durable`.
        argument: String,
        /// The value of the program; `none` when it has none.
        wanted: String,
        /// The value on the broker; `none` when it has none.
        found: String,
    },
    /// It is not there, and was to be verified only; or what a binding joins is gone.
    #[error("{object} is not there")]
    #[non_exhaustive]
    Missing {
        /// What was looked for.
        object: String,
    },
    /// The user of the connection may not do that.
    #[error("{object} was refused: {permission} is missing")]
    #[non_exhaustive]
    Refused {
        /// What was declared.
        object: String,
        /// Which permission is missing, on what.
        permission: String,
    },
    /// Refused for another reason, in the words of RabbitMQ.
    #[error("{object} was rejected: {text}")]
    #[non_exhaustive]
    Rejected {
        /// What was declared.
        object: String,
        /// What RabbitMQ said.
        text: String,
    },
    /// The group can have no queue: its name is not valid.
    #[error("{0}")]
    Name(String),
    /// The connection was lost on the way. What comes before in the plan may be declared.
    #[error("the connection was lost while declaring: {0}")]
    Connection(String),
}

/// What an error of lapin means for an object.
pub(super) fn explain(object: &PlanObject, error: &lapin::Error) -> TopologyError {
    let ErrorKind::ProtocolError(protocol) = error.kind() else {
        return connection(error);
    };
    let text = protocol.get_message().as_str();
    let described = object.described();
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => {
            TopologyError::Missing { object: described }
        }
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => match missing_permission(text) {
            Some(permission) => TopologyError::Refused {
                object: described,
                permission,
            },
            None => rejected(described, text),
        },
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => match difference(text) {
            Some((argument, wanted, found)) => TopologyError::Mismatch {
                object: described,
                argument,
                wanted,
                found,
            },
            None => rejected(described, text),
        },
        AMQPErrorKind::Soft(_) => rejected(described, text),
        AMQPErrorKind::Hard(_) => connection(error),
    }
}

pub(super) fn connection(error: &lapin::Error) -> TopologyError {
    TopologyError::Connection(crate::bridge::explained(error))
}

fn rejected(object: String, text: &str) -> TopologyError {
    TopologyError::Rejected {
        object,
        text: text.to_owned(),
    }
}

/// Argument, wanted and found of `… inequivalent arg 'A' for queue 'Q' in vhost 'V': received W but current is F`.
fn difference(text: &str) -> Option<(String, String, String)> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (argument, rest) = rest.split_once("' for ")?;
    let (_, values) = rest.split_once("': received ")?;
    // A text over 255 bytes is cut off by RabbitMQ, and with it the value found.
    let (wanted, found) = values.split_once(" but current is ")?;
    Some((argument.to_owned(), value(wanted), value(found)))
}

/// `none`, `'V'` or `the value 'V' of type 'T'`.
fn value(text: &str) -> String {
    let text = text.strip_prefix("the value ").unwrap_or(text);
    let text = text
        .rsplit_once(" of type ")
        .map_or(text, |(value, _)| value);
    let text = text.strip_prefix('\'').unwrap_or(text);
    text.strip_suffix('\'').unwrap_or(text).to_owned()
}

/// What is missing by `… configure access to queue 'Q' in vhost 'V' refused for user 'U'`. Older brokers do not
/// say which access, and the user is nobody's business.
fn missing_permission(text: &str) -> Option<String> {
    let (before, rest) = text.split_once("access to ")?;
    let (resource, _) = rest.split_once(" refused for user")?;
    let access = before
        .rsplit_once(" - ")
        .map_or(before, |(_, access)| access);
    let access = match access.trim() {
        "" => "a",
        access => access,
    };
    Some(format!("{access} permission on {resource}"))
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPHardError};
    use proptest::prelude::*;

    use super::*;

    fn queue() -> PlanObject {
        PlanObject::Queue {
            name: "q".to_owned(),
            arguments: Vec::new(),
        }
    }

    fn explained(kind: impl Into<AMQPErrorKind>, text: &str) -> TopologyError {
        let error = AMQPError::new(kind.into(), text.into());
        explain(&queue(), &ErrorKind::ProtocolError(error).into())
    }

    fn mismatch(text: &str) -> (String, String, String) {
        match explained(AMQPSoftError::PRECONDITIONFAILED, text) {
            TopologyError::Mismatch {
                object,
                argument,
                wanted,
                found,
            } => {
                assert_eq!(object, "queue `q`");
                (argument, wanted, found)
            }
            other => panic!("{other:?}"),
        }
    }

    fn three(argument: &str, wanted: &str, found: &str) -> (String, String, String) {
        (argument.to_owned(), wanted.to_owned(), found.to_owned())
    }

    #[test]
    fn a_mismatch_names_argument_and_both_values() {
        assert_eq!(
            mismatch(
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': \
                 received 'classic' but current is 'quorum'"
            ),
            three("x-queue-type", "classic", "quorum")
        );
        assert_eq!(
            mismatch(
                "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'it's' in vhost '/': \
                 received none but current is the value '100' of type 'long'"
            ),
            three("x-message-ttl", "none", "100")
        );
        assert_eq!(
            mismatch(
                "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': \
                 received the value '' of type 'longstr' but current is none"
            ),
            three("x-dead-letter-exchange", "", "none")
        );
    }

    #[test]
    fn another_text_is_carried_as_it_is() {
        let text = "PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue 'q'";
        assert_eq!(
            explained(AMQPSoftError::PRECONDITIONFAILED, text),
            TopologyError::Rejected {
                object: "queue `q`".to_owned(),
                text: text.to_owned()
            }
        );
        let cut_off = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'qqq...";
        assert!(matches!(
            explained(AMQPSoftError::PRECONDITIONFAILED, cut_off),
            TopologyError::Rejected { .. }
        ));
    }

    #[test]
    fn a_refusal_says_which_permission_and_not_which_user() {
        let now = "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'mallory'";
        let then = "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'mallory'";
        assert_eq!(
            explained(AMQPSoftError::ACCESSREFUSED, now).to_string(),
            "queue `q` was refused: configure permission on queue 'q' in vhost '/' is missing"
        );
        assert_eq!(
            explained(AMQPSoftError::ACCESSREFUSED, then).to_string(),
            "queue `q` was refused: a permission on queue 'q' in vhost '/' is missing"
        );
    }

    #[test]
    fn a_closed_connection_is_no_fault_of_the_object() {
        assert!(matches!(
            explained(
                AMQPHardError::CONNECTIONFORCED,
                "CONNECTION_FORCED - shutdown"
            ),
            TopologyError::Connection(_)
        ));
        assert!(matches!(
            explained(
                AMQPSoftError::NOTFOUND,
                "NOT_FOUND - no queue 'q' in vhost '/'"
            ),
            TopologyError::Missing { .. }
        ));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "inequivalent arg '", "' for ", "': received ", " but current is ", "the value '", "' of type '",
                    "access to ", " refused for user", " - ", "'", "none", "ü",
                ]),
                0..12,
            )
        ) {
            let text = parts.concat();
            let _ = explained(AMQPSoftError::PRECONDITIONFAILED, &text).to_string();
            let _ = explained(AMQPSoftError::ACCESSREFUSED, &text).to_string();
        }
    }
}
