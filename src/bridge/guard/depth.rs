//! Follows the AMQP frames that a broker sends, and makes opaque what is nested too deeply in their tables.
//!
//! A push-parser: it sees the bytes as they come, keeps its place between chunks, and never recurses.

use super::frame::{BODY, HEAD, HEADER, HEARTBEAT, METHOD};

/// As many tables and arrays may lie in each other, the table of headers itself included; what lies deeper becomes an
/// opaque byte array.
///
/// Far above any use, and far below what lapin has stack for: version 4.12.3 overflows the 2 MiB of its thread at some
/// 165 levels where it is built without optimisation, and at some 920 with.
pub(super) const MOST_LEVELS: usize = 32;

/// The first letter of the protocol header that a broker answers to a version it does not speak.
const PROTOCOL_HEADER: u8 = b'A';

/// Where in the stream of frames the next byte lies.
#[derive(Debug)]
enum Place {
    /// In a frame's head, with as much of it as was read.
    Head { read: usize, kind: u8, size: u32 },
    /// In a payload that has tables; its end octet follows.
    Payload,
    /// In bytes without tables.
    Opaque(u64),
    /// Behind an unknown frame type. lapin ends a connection there; nothing can be known of what follows.
    Lost,
}

/// The depth limiter of one connection's incoming bytes.
#[derive(Debug)]
pub(super) struct DepthLimit {
    place: Place,
    payload: Payload,
}

impl DepthLimit {
    pub(super) fn new() -> Self {
        Self {
            place: Place::next_frame(),
            payload: Payload::new(),
        }
    }

    /// Passes the next bytes of the stream. Changes at most the type bytes of values nested too deeply, never a
    /// length; costs one look at each byte of a header and none at those of a body.
    pub(super) fn pass(&mut self, mut chunk: &mut [u8]) {
        while !chunk.is_empty() {
            let passed = match &mut self.place {
                Place::Head { read, kind, size } => {
                    let byte = chunk[0];
                    match *read {
                        0 => *kind = byte,
                        3.. => *size = *size << 8 | u32::from(byte),
                        _ => {}
                    }
                    *read += 1;
                    if *read == HEAD {
                        let (kind, size) = (*kind, *size);
                        self.enter(kind, size);
                    }
                    1
                }
                Place::Payload => {
                    let passed = self.payload.pass(chunk);
                    if self.payload.is_over() {
                        self.place = Place::Opaque(1);
                    }
                    passed
                }
                Place::Opaque(left) => {
                    let passed = within(*left, chunk);
                    *left -= passed as u64;
                    if *left == 0 {
                        self.place = Place::next_frame();
                    }
                    passed
                }
                Place::Lost => return,
            };
            chunk = &mut chunk[passed..];
        }
    }

    fn enter(&mut self, kind: u8, size: u32) {
        self.place = match kind {
            METHOD | HEADER if size == 0 => Place::Opaque(1),
            METHOD | HEADER => {
                self.payload.begin(kind, size);
                Place::Payload
            }
            // With the end octet. That it is right is lapin's to check: it ends the connection where it is not.
            BODY | HEARTBEAT => Place::Opaque(u64::from(size) + 1),
            // Eight bytes in all, of which seven are read.
            PROTOCOL_HEADER => Place::Opaque(1),
            _ => Place::Lost,
        };
    }
}

impl Place {
    fn next_frame() -> Self {
        Self::Head {
            read: 0,
            kind: 0,
            size: 0,
        }
    }
}

/// As many bytes of the chunk as `most` allows.
fn within(most: u64, chunk: &[u8]) -> usize {
    usize::try_from(most).map_or(chunk.len(), |most| most.min(chunk.len()))
}

/// What a number means, once its bytes are read.
#[derive(Clone, Copy, Debug)]
enum Number {
    /// Class and method of a method frame.
    Method,
    /// The property flags of a content header.
    Flags,
    /// The length of one of the short strings before the table.
    Short,
    /// The length of a key in a table.
    Key,
    /// The type of a value.
    Type,
    /// The length of a string or byte array.
    Bytes,
    /// The length of a table or array.
    Values(Shape),
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Table,
    Array,
}

/// A table or array that is being walked, and where it ends.
#[derive(Clone, Copy, Debug)]
struct Level {
    shape: Shape,
    end: u64,
}

/// One payload: all of it is a sequence of bytes to skip and numbers to understand, which say what to do next.
///
/// It goes wrong exactly where lapin's parser does, so that there is no table that only lapin sees.
#[derive(Debug)]
struct Payload {
    size: u64,
    position: u64,
    /// To be skipped before the next number.
    skip: u64,
    number: Number,
    missing: u8,
    value: u32,
    /// What stands between here and the frame's table: short strings, then as many bytes of bits.
    shorts: u8,
    bits: u8,
    levels: [Level; MOST_LEVELS],
    depth: usize,
}

impl Payload {
    fn new() -> Self {
        let level = Level {
            shape: Shape::Table,
            end: 0,
        };
        Self {
            size: 0,
            position: 0,
            skip: 0,
            number: Number::Flags,
            missing: 0,
            value: 0,
            shorts: 0,
            bits: 0,
            levels: [level; MOST_LEVELS],
            depth: 0,
        }
    }

    fn begin(&mut self, kind: u8, size: u32) {
        (self.size, self.position) = (u64::from(size), 0);
        (self.shorts, self.bits, self.depth) = (0, 0, 0);
        if kind == METHOD {
            self.then(0, Number::Method);
        } else {
            // Class, weight and body size.
            self.then(12, Number::Flags);
        }
    }

    fn is_over(&self) -> bool {
        self.position == self.size
    }

    fn pass(&mut self, chunk: &mut [u8]) -> usize {
        let most = within(self.size - self.position, chunk);
        let mut at = 0;
        while at < most {
            if self.skip > 0 {
                let skipped = within(self.skip, &chunk[at..most]);
                self.skip -= skipped as u64;
                self.position += skipped as u64;
                at += skipped;
                continue;
            }
            self.value = self.value << 8 | u32::from(chunk[at]);
            self.position += 1;
            self.missing -= 1;
            if self.missing == 0 {
                self.understand(&mut chunk[at]);
            }
            at += 1;
        }
        at
    }

    /// The number is read; `last` is its last byte, in the reader's buffer.
    fn understand(&mut self, last: &mut u8) {
        let value = self.value;
        match self.number {
            Number::Method => self.method(value),
            Number::Flags => {
                // Content type and content encoding come before the headers.
                let has = |bit: u32| value >> bit & 1 == 1;
                if has(13) {
                    self.shorts = u8::from(has(15)) + u8::from(has(14));
                    self.before_table(0);
                } else {
                    self.stop();
                }
            }
            Number::Short => {
                self.shorts -= 1;
                self.before_table(u64::from(value));
            }
            Number::Key => self.then(u64::from(value), Number::Type),
            Number::Type => self.value_of(last),
            Number::Bytes => self.after_value(u64::from(value)),
            Number::Values(shape) => self.descend(shape, u64::from(value)),
        }
    }

    /// The methods that have a table. A client is sent only the first of them, and by the broker itself; but lapin
    /// parses each, whoever sent it.
    fn method(&mut self, class_and_method: u32) {
        // A version or a reserved number of two bytes, short strings, bits, and then the table.
        let (skip, shorts, bits) = match (class_and_method >> 16, class_and_method & 0xffff) {
            (10, 10) => (2, 0, 0),      // connection.start
            (10, 11) => (0, 0, 0),      // connection.start-ok
            (40, 10) => (2, 2, 1),      // exchange.declare
            (40, 30 | 40) => (2, 3, 1), // exchange.bind, exchange.unbind
            (50, 10) => (2, 1, 1),      // queue.declare
            (50, 20) => (2, 3, 1),      // queue.bind
            (50, 50) => (2, 3, 0),      // queue.unbind
            (60, 20) => (2, 2, 1),      // basic.consume
            _ => return self.stop(),
        };
        (self.shorts, self.bits) = (shorts, bits);
        self.before_table(skip);
    }

    fn before_table(&mut self, skip: u64) {
        if self.shorts > 0 {
            self.then(skip, Number::Short);
        } else {
            self.then(skip + u64::from(self.bits), Number::Values(Shape::Table));
        }
    }

    /// A value begins, of the type that `kind` says: RabbitMQ's types, as lapin reads them.
    fn value_of(&mut self, kind: &mut u8) {
        match *kind {
            b'V' => self.after_value(0),
            b't' | b'b' | b'B' => self.after_value(1),
            b's' | b'U' | b'u' => self.after_value(2),
            b'I' | b'i' | b'f' => self.after_value(4),
            b'D' => self.after_value(5),
            b'L' | b'l' | b'd' | b'T' => self.after_value(8),
            b'S' | b'x' => self.then(0, Number::Bytes),
            b'F' | b'A' if self.depth == MOST_LEVELS => {
                // The same layout: a length of four bytes, and so many bytes.
                *kind = b'x';
                self.then(0, Number::Bytes);
            }
            b'F' => self.then(0, Number::Values(Shape::Table)),
            b'A' => self.then(0, Number::Values(Shape::Array)),
            _ => self.stop(),
        }
    }

    fn descend(&mut self, shape: Shape, length: u64) {
        let end = self.position + length;
        if end > self.end() {
            return self.stop();
        }
        // There is a place: too deep a value was made opaque by its type.
        self.levels[self.depth] = Level { shape, end };
        self.depth += 1;
        self.after_value(0);
    }

    /// A value ends `length` bytes from here, and with it perhaps the tables that it is the last of.
    fn after_value(&mut self, length: u64) {
        let end = self.position + length;
        while self.depth > 0 && self.end() == end {
            self.depth -= 1;
        }
        match self.levels[..self.depth].last() {
            Some(Level {
                shape: Shape::Table,
                ..
            }) => self.then(length, Number::Key),
            Some(Level {
                shape: Shape::Array,
                ..
            }) => self.then(length, Number::Type),
            // The frame's one table is walked.
            None => self.stop(),
        }
    }

    fn then(&mut self, skip: u64, number: Number) {
        let missing = match number {
            Number::Short | Number::Key | Number::Type => 1,
            Number::Flags => 2,
            Number::Method | Number::Bytes | Number::Values(_) => 4,
        };
        // Malformed: lapin parses nothing behind this either.
        if self.position + skip + u64::from(missing) > self.end() {
            return self.stop();
        }
        (self.skip, self.number, self.missing, self.value) = (skip, number, missing, 0);
    }

    fn stop(&mut self) {
        self.skip = self.size - self.position;
    }

    /// The end of the innermost table or array, or of the payload.
    fn end(&self) -> u64 {
        let level = self.levels[..self.depth].last();
        level.map_or(self.size, |level| level.end)
    }
}

#[cfg(test)]
mod tests;
