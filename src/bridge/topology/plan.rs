use std::fmt;

/// What the bridge wants to be there on the broker, in an order in which it can be declared.
///
/// Printed, it is one line an object. Two plans are equal when they want the same in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    objects: Vec<PlanObject>,
}

/// One exchange, queue or binding of a [`Plan`]. All of them are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanObject {
    /// Routes messages.
    #[non_exhaustive]
    Exchange {
        /// Its name.
        name: String,
        /// How it routes.
        kind: ExchangeKind,
        /// Its arguments.
        arguments: Vec<(&'static str, Argument)>,
    },
    /// Holds messages.
    #[non_exhaustive]
    Queue {
        /// Its name.
        name: String,
        /// Its arguments, its type among them.
        arguments: Vec<(&'static str, Argument)>,
    },
    /// From an exchange to a queue.
    #[non_exhaustive]
    QueueBinding {
        /// The exchange.
        exchange: String,
        /// The routing key, or the pattern of a topic exchange.
        key: String,
        /// The queue.
        queue: String,
    },
    /// From an exchange to another.
    #[non_exhaustive]
    ExchangeBinding {
        /// The exchange from which messages come.
        from: String,
        /// The pattern.
        key: String,
        /// The exchange to which they go.
        to: String,
    },
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// By the pattern of the binding.
    Topic,
    /// By the equal key.
    Direct,
    /// To all.
    Fanout,
}

/// The value of an exchange's or a queue's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Argument {
    /// A string.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl Plan {
    /// What is wanted, in the order in which it is declared.
    pub fn objects(&self) -> impl Iterator<Item = &PlanObject> {
        self.objects.iter()
    }

    /// This and then that; what both want is kept once.
    pub(in crate::bridge) fn and(mut self, other: Self) -> Self {
        for object in other.objects {
            self.push(object);
        }
        self
    }

    pub(in crate::bridge) fn exchange(
        &mut self,
        name: impl Into<String>,
        kind: ExchangeKind,
        arguments: Vec<(&'static str, Argument)>,
    ) {
        let name = name.into();
        self.push(PlanObject::Exchange {
            name,
            kind,
            arguments,
        });
    }

    pub(in crate::bridge) fn queue(
        &mut self,
        name: impl Into<String>,
        arguments: Vec<(&'static str, Argument)>,
    ) {
        let name = name.into();
        self.push(PlanObject::Queue { name, arguments });
    }

    pub(in crate::bridge) fn bind_queue(
        &mut self,
        exchange: impl Into<String>,
        key: impl Into<String>,
        queue: impl Into<String>,
    ) {
        self.push(PlanObject::QueueBinding {
            exchange: exchange.into(),
            key: key.into(),
            queue: queue.into(),
        });
    }

    pub(in crate::bridge) fn bind_exchange(
        &mut self,
        from: impl Into<String>,
        key: impl Into<String>,
        to: impl Into<String>,
    ) {
        self.push(PlanObject::ExchangeBinding {
            from: from.into(),
            key: key.into(),
            to: to.into(),
        });
    }

    fn push(&mut self, object: PlanObject) {
        if !self.objects.contains(&object) {
            self.objects.push(object);
        }
    }
}

impl PlanObject {
    /// What it is and its name, as errors say it.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Exchange { name, .. } => format!("exchange `{name}`"),
            Self::Queue { name, .. } => format!("queue `{name}`"),
            Self::QueueBinding {
                exchange,
                key,
                queue,
            } => format!("binding `{key}` of queue `{queue}` to exchange `{exchange}`"),
            Self::ExchangeBinding { from, key, to } => {
                format!("binding `{key}` of exchange `{to}` to exchange `{from}`")
            }
        }
    }
}

impl ExchangeKind {
    /// As the protocol names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Direct => "direct",
            Self::Fanout => "fanout",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects
            .iter()
            .try_for_each(|object| writeln!(f, "{object}"))
    }
}

impl fmt::Display for PlanObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange {
                name,
                kind,
                arguments,
            } => {
                write!(f, "exchange  {name}  {}", kind.as_str())?;
                show_arguments(f, arguments)
            }
            Self::Queue { name, arguments } => {
                write!(f, "queue     {name} ")?;
                show_arguments(f, arguments)
            }
            Self::QueueBinding {
                exchange,
                key,
                queue,
            } => write!(f, "binding   {exchange} -- {key} -> {queue}"),
            Self::ExchangeBinding { from, key, to } => {
                write!(f, "binding   {from} -- {key} -> exchange {to}")
            }
        }
    }
}

fn show_arguments(
    f: &mut fmt::Formatter<'_>,
    arguments: &[(&'static str, Argument)],
) -> fmt::Result {
    arguments
        .iter()
        .try_for_each(|(name, value)| write!(f, " {name}={value}"))
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) if text.is_empty() => f.write_str("\"\""),
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Argument {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
