//! What a message passes before it is accepted.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Broker;
use crate::message::{
    AddressKind, Envelope, RawMessage, SharedParcel, encoded, validate_header, validate_key,
    validate_queue, validate_topic,
};
use crate::ports::{Outbound, Refusal};

impl Broker {
    /// Whether what a publisher chose can be sent at all. Run only for what is not a known constant.
    pub(crate) fn check(&self, envelope: &Envelope) -> Result<(), Refusal> {
        match envelope.kind() {
            AddressKind::Topic => validate_topic(envelope.address())?,
            AddressKind::Queue => validate_queue(envelope.address())?,
        }
        if let Some(key) = envelope.key() {
            validate_key(key)?;
        }
        for (name, _) in envelope.headers() {
            validate_header(name)?;
        }
        Ok(())
    }

    /// Lets the interceptors see a message. A panic in one refuses the message.
    pub(crate) fn intercept(&self, envelope: &mut Envelope) -> Result<(), Refusal> {
        for interceptor in self.services.interceptors.iter() {
            let seen = catch_unwind(AssertUnwindSafe(|| {
                interceptor.publish(&mut Outbound {
                    envelope: &mut *envelope,
                })
            }));
            match seen {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => return Err(Refusal::Intercepted(refused.0)),
                Err(_) => return Err(Refusal::Intercepted("an interceptor panicked".to_owned())),
            }
        }
        if !self.services.interceptors.is_empty() {
            // They may have added some.
            for (name, _) in envelope.headers() {
                validate_header(name)?;
            }
        }
        Ok(())
    }

    /// The last step before a message is shared: nothing can refuse it any more.
    pub(crate) fn seal(&self, parcel: SharedParcel) -> SharedParcel {
        let parcel = self.encoded(parcel);
        for interceptor in self.services.interceptors.iter() {
            let told = catch_unwind(AssertUnwindSafe(|| {
                interceptor.accepted(RawMessage::of(&parcel));
            }));
            if told.is_err() {
                tracing::error!(id = %parcel.envelope().id, "an interceptor panicked in `accepted`");
            }
        }
        parcel
    }

    /// With `encode_always`, only the bytes of a message go on.
    pub(super) fn encoded(&self, parcel: SharedParcel) -> SharedParcel {
        if self.limits.encode_always {
            encoded(parcel)
        } else {
            parcel
        }
    }

    /// A limit on bodies makes every body be encoded; without one nothing is.
    pub(crate) fn check_size(&self, parcel: &SharedParcel) -> Result<(), Refusal> {
        let Some(limit) = self.limits.body_limit else {
            return Ok(());
        };
        let size = parcel
            .json()
            .map_err(|error| Refusal::Codec(error.to_string()))?
            .len();
        if size > limit {
            Err(Refusal::TooLarge { size, limit })
        } else {
            Ok(())
        }
    }
}
