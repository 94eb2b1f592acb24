use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::message::{MessageId, ReplyPort};

/// From so many on, replies that nobody waits for any more are looked for.
const MANY_REPLIES: usize = 1024;

/// Where replies of this process's requests go, by the ids of their messages.
#[derive(Default)]
pub(super) struct Replies(Mutex<HashMap<MessageId, Arc<dyn ReplyPort>>>);

impl Replies {
    pub(super) fn of(&self, message: MessageId) -> Option<Arc<dyn ReplyPort>> {
        self.0.lock().get(&message).cloned()
    }

    pub(super) fn expect(&self, message: MessageId, port: &Arc<dyn ReplyPort>) {
        let mut replies = self.0.lock();
        if replies.len() >= MANY_REPLIES && replies.len().is_power_of_two() {
            // Of messages that another process has handled.
            replies.retain(|_, port| port.is_awaited());
        }
        replies.insert(message, Arc::clone(port));
    }

    pub(super) fn forget(&self, message: MessageId) {
        self.0.lock().remove(&message);
    }
}
