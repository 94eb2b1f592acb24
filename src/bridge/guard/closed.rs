//! Follows the frames that a broker sends, and lets nothing of a channel through that the broker has closed.
//!
//! RabbitMQ closes a channel from its reader while the channel's own writer may still have deliveries, confirms or an
//! answer on the way: they come after the close. lapin has answered and forgotten the channel by then, and takes
//! the whole connection down for a frame of a channel that it does not know.

use super::frame::{BODY, HEAD, HEADER, HEARTBEAT, METHOD};

/// With class and method behind it.
const METHOD_HEAD: usize = HEAD + 4;

const CHANNEL_OPEN_OK: [u8; 4] = [0, 20, 0, 11];
const CHANNEL_CLOSE: [u8; 4] = [0, 20, 0, 40];

/// The filter of one connection's incoming bytes.
#[derive(Debug, Default)]
pub(super) struct ClosedChannels {
    closed: Vec<u16>,
    /// What is left of the present frame, its end octet included.
    left: u64,
    /// Whether the present frame is let through.
    drops: bool,
    /// The beginning of a frame of which too little was read to know what it is.
    begun: Vec<u8>,
    /// Behind what is no frame. lapin ends a connection there; nothing can be known of what follows.
    lost: bool,
}

/// What a frame begins with, once enough of it was read.
enum Head {
    Frame { left: u64, drops: bool },
    TooShort,
    NoFrame,
}

impl ClosedChannels {
    /// Takes the next bytes of the stream, and keeps of them in their place what is to be let through. Answers how much
    /// that is; `spill` gets what has no room any more, from an earlier call, and stands before the rest.
    ///
    /// Costs one look at the head of each frame, and none at what is in it.
    pub(super) fn pass(&mut self, chunk: &mut [u8], spill: &mut Vec<u8>) -> usize {
        if self.begun.is_empty() {
            return self.pass_in_place(chunk);
        }
        let mut whole = std::mem::take(&mut self.begun);
        whole.extend_from_slice(chunk);
        let kept = self.pass_in_place(&mut whole);
        let fits = kept.min(chunk.len());
        chunk[..fits].copy_from_slice(&whole[..fits]);
        spill.extend_from_slice(&whole[fits..kept]);
        fits
    }

    fn pass_in_place(&mut self, chunk: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        while at < chunk.len() {
            if self.left == 0 && !self.lost {
                match self.head(&chunk[at..]) {
                    Head::Frame { left, drops } => (self.left, self.drops) = (left, drops),
                    Head::TooShort => {
                        self.begun.extend_from_slice(&chunk[at..]);
                        return kept;
                    }
                    Head::NoFrame => (self.lost, self.drops) = (true, false),
                }
            }
            let rest = chunk.len() - at;
            let step = if self.lost {
                rest
            } else {
                usize::try_from(self.left).map_or(rest, |left| left.min(rest))
            };
            self.left = self.left.saturating_sub(step as u64);
            if !self.drops {
                if kept != at {
                    chunk.copy_within(at..at + step, kept);
                }
                kept += step;
            }
            at += step;
        }
        kept
    }

    fn head(&mut self, bytes: &[u8]) -> Head {
        if !matches!(bytes[0], METHOD | HEADER | BODY | HEARTBEAT) {
            return Head::NoFrame;
        }
        let Some(head) = bytes.first_chunk::<HEAD>() else {
            return Head::TooShort;
        };
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut drops = self.closed.contains(&channel);
        if head[0] == METHOD && size >= 4 {
            let Some(method) = bytes.get(HEAD..METHOD_HEAD) else {
                return Head::TooShort;
            };
            if method == CHANNEL_OPEN_OK {
                self.closed.retain(|closed| *closed != channel);
                drops = false;
            } else if method == CHANNEL_CLOSE && !drops {
                self.closed.push(channel);
            }
        }
        Head::Frame {
            // With its end octet.
            left: HEAD as u64 + u64::from(size) + 1,
            drops,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bridge::guard::fake_broker::{self, frame};

    const OPEN_OK: (u16, u16) = (20, 11);
    const CLOSE: (u16, u16) = (20, 40);
    const CLOSE_OK: (u16, u16) = (20, 41);
    const DELIVER: (u16, u16) = (60, 60);

    fn method(channel: u16, (class, method): (u16, u16)) -> Vec<u8> {
        fake_broker::method(channel, class, method, b"arguments")
    }

    /// Each with whether it is let through.
    fn story() -> Vec<(Vec<u8>, bool)> {
        vec![
            (method(1, DELIVER), true),
            (method(1, CLOSE), true),
            (method(1, DELIVER), false),
            (frame(HEADER, 1, b"header"), false),
            (method(2, DELIVER), true),
            (frame(BODY, 1, b"body of the closed one"), false),
            (frame(HEADER, 2, b"header"), true),
            (frame(HEARTBEAT, 0, b""), true),
            (frame(BODY, 2, b"body of the other"), true),
            (method(1, CLOSE_OK), false),
            (method(1, CLOSE), false),
            (method(1, OPEN_OK), true),
            (method(1, DELIVER), true),
            (frame(BODY, 1, b""), true),
            (frame(METHOD, 1, b"odd"), true),
        ]
    }

    /// What comes out when it is read in pieces of these sizes, into buffers of the same.
    fn passed(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (mut filter, mut out, mut spill) = (ClosedChannels::default(), Vec::new(), Vec::new());
        let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().unwrap()).min(rest.len());
            let (chunk, later) = rest.split_at(size);
            let mut chunk = chunk.to_vec();
            let kept = filter.pass(&mut chunk, &mut spill);
            out.extend_from_slice(&chunk[..kept]);
            out.append(&mut spill);
            rest = later;
        }
        out
    }

    proptest! {
        #[test]
        fn of_a_closed_channel_nothing_passes_however_it_is_cut(
            sizes in prop::collection::vec(1usize..40, 1..8)
        ) {
            let (all, let_through): (Vec<_>, Vec<_>) = story()
                .into_iter()
                .map(|(frame, passes)| (frame.clone(), if passes { frame } else { Vec::new() }))
                .unzip();
            prop_assert_eq!(passed(&all.concat(), &sizes), let_through.concat());
        }

        #[test]
        fn what_is_no_frame_passes_as_it_is(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            sizes in prop::collection::vec(1usize..40, 1..8),
        ) {
            let mut stream = b"AMQP\x00\x00\x09\x01".to_vec();
            stream.extend(bytes);
            prop_assert_eq!(passed(&stream, &sizes), stream);
        }
    }
}
