//! The products, and the orders to be placed: from a file, from the sample, or made up from a seed.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::messages::Cents;
use crate::ordering;

const CATALOG: &str = include_str!("data/catalog.jsonl");
const ORDERS: &str = include_str!("data/orders.jsonl");

/// As many orders as the sample's stock is meant for.
const STOCKED_FOR: usize = 500;

/// A line of `catalog.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub struct Product {
    pub id: String,
    pub name: String,
    pub price: Cents,
    pub stock: u32,
}

/// A line of `orders.jsonl`, and the body of `POST /orders`.
#[derive(Clone, Debug, Deserialize)]
pub struct NewOrder {
    pub user: String,
    pub lines: Vec<NewLine>,
    /// The user cancels it right away.
    #[serde(default)]
    pub cancel: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct NewLine {
    pub product: String,
    pub units: u32,
}

/// An input that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{file}, line {line}: {why}")]
    Line {
        file: String,
        line: usize,
        why: String,
    },
}

/// The sample's products, with stock for this many orders.
pub fn products(orders: usize) -> Result<Vec<Product>, InputError> {
    let times = u32::try_from(orders.div_ceil(STOCKED_FOR).max(1)).unwrap_or(u32::MAX);
    let mut products: Vec<Product> = lines("catalog.jsonl", CATALOG, |_| Ok(()))?;
    for product in &mut products {
        product.stock = product.stock.saturating_mul(times);
    }
    Ok(products)
}

/// The orders of a file, or those of the sample.
pub fn orders(file: Option<&Path>) -> Result<Vec<NewOrder>, InputError> {
    let Some(path) = file else {
        return lines("orders.jsonl", ORDERS, check);
    };
    let unreadable = |source| InputError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    lines(&path.display().to_string(), &text, check)
}

/// Whether an order makes sense.
pub fn check(order: &NewOrder) -> Result<(), String> {
    check_name("a user's name", &order.user)?;
    for line in &order.lines {
        check_name("a product's name", &line.product)?;
    }
    ordering::check(
        order
            .lines
            .iter()
            .map(|line| (line.product.as_str(), line.units)),
    )
}

/// Names are keys of messages, and must be fit for that: found here, a bad one is the user's to mend; found by a
/// service, it would be a dead letter.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 200 {
        return Err(format!("{what} has 1 to 200 bytes"));
    }
    if name.contains(char::is_control) {
        return Err(format!("{what} has no control characters"));
    }
    Ok(())
}

fn lines<T: DeserializeOwned>(
    file: &str,
    text: &str,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>, InputError> {
    let parse = |text| {
        let value = serde_json::from_str(text).map_err(|error| unlike_json(&error))?;
        check(&value).map(|()| value)
    };
    let numbered = text
        .lines()
        .zip(1..)
        .filter(|(text, _)| !text.trim().is_empty());
    numbered
        .map(|(text, line)| {
            parse(text).map_err(|why| InputError::Line {
                file: file.to_owned(),
                line,
                why,
            })
        })
        .collect()
}

/// The error without serde's own line, which is always the first here, and would contradict the file's.
fn unlike_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let at = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&at) {
        Some(why) => format!("{why}, at column {}", error.column()),
        None => text,
    }
}

/// Orders without an end, the same for the same seed. Some are for products that do not exist, for more than
/// there is, or for more than anybody may pay at once, and some are cancelled right away.
pub struct MadeUp {
    rng: Rng,
    products: Vec<Product>,
    limit: Cents,
}

impl MadeUp {
    pub fn new(seed: u64, products: &[Product], limit: Cents) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            products: products.to_vec(),
            limit,
        }
    }

    fn line(&mut self) -> Option<NewLine> {
        let product = self.rng.choice(&self.products)?.id.clone();
        Some(NewLine {
            product,
            units: self.rng.u32(1..=3),
        })
    }

    /// A line that alone costs more than the limit.
    fn dear_line(&self) -> Option<NewLine> {
        let dearest = self.products.iter().max_by_key(|product| product.price)?;
        let units = self.limit / dearest.price.max(1) + 1;
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Some(NewLine {
            product: dearest.id.clone(),
            units,
        })
    }
}

impl Iterator for MadeUp {
    type Item = NewOrder;

    fn next(&mut self) -> Option<NewOrder> {
        let user = format!("user-{}", self.rng.u32(0..200));
        let mut lines = vec![self.line()?];
        while lines.len() < 3 && self.rng.bool() {
            lines.push(self.line()?);
        }
        let mut cancel = false;
        match self.rng.u32(0..100) {
            0..2 => lines.push(NewLine {
                product: "no-such-thing".to_owned(),
                units: 1,
            }),
            2..4 => lines[0].units = u32::MAX,
            4..6 => lines = vec![self.dear_line()?],
            6..8 => cancel = true,
            _ => {}
        }
        Some(NewOrder {
            user,
            lines,
            cancel,
        })
    }
}
