//! The store in SQL: one set of statements, two dialects.

mod dialect;
mod driver;
mod handling;
mod migration;
#[cfg(feature = "postgres")]
mod postgres;
mod queue_statements;
mod rows;
mod session;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod tables;

pub use migration::{Migration, Migrations};
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
