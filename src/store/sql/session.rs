mod outbox;
mod queue_rows;
mod queues;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::driver::{self, Cells, Driver, Value};
use super::statements::Statements;
use crate::store::{DatabaseError, DatabaseProblem, StoreSession, Turn, Turns};

/// A connection of the store's own, and how long a statement may take.
pub(super) struct Session<D> {
    connection: D,
    statements: Arc<Statements>,
    patience: Duration,
    /// The line in which it writes, and how long it waits there.
    turns: Option<(Turns, Duration)>,
    /// What runs now has its turn.
    has_turn: bool,
    /// The data version that was seen last.
    seen: Option<i64>,
}

impl<D: Driver> Session<D> {
    pub(super) fn open(
        connection: D,
        statements: &Arc<Statements>,
        patience: Duration,
        turns: Option<(Turns, Duration)>,
    ) -> Box<dyn StoreSession> {
        Box::new(Self {
            connection,
            statements: Arc::clone(statements),
            patience,
            turns,
            has_turn: false,
            seen: None,
        })
    }
}

/// Waits for a database, but not for ever.
pub(super) async fn bounded<T, D: Driver>(
    during: &'static str,
    patience: Duration,
    future: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(patience, future).await {
        Ok(answer) => answer.map_err(|error| driver::error::<D>(during, &error)),
        Err(_) => Err(DatabaseError::new(
            DatabaseProblem::Timeout,
            during,
            format!("no answer within {patience:?}"),
        )),
    }
}

impl<D: Driver> Session<D> {
    async fn execute(
        &mut self,
        during: &'static str,
        sql: fn(&Statements) -> &Arc<str>,
        values: Vec<Value>,
    ) -> Result<u64, DatabaseError> {
        let _turn = self.turn().await;
        let running = self.connection.execute(sql(&self.statements), values);
        bounded::<_, D>(during, self.patience, running).await
    }

    /// The turn to write; nothing within what has one.
    async fn turn(&mut self) -> Turn {
        match &self.turns {
            Some((turns, patience)) if !self.has_turn => turns.next(*patience).await,
            _ => Turn::free(),
        }
    }

    /// Several statements in one turn. Dropped before its end, the session is not used again.
    async fn in_turn<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> T) -> T {
        let _turn = self.turn().await;
        self.has_turn = true;
        let worked = work(self).await;
        self.has_turn = false;
        worked
    }

    async fn fetch(
        &mut self,
        during: &'static str,
        sql: fn(&Statements) -> &Arc<str>,
        values: Vec<Value>,
    ) -> Result<Vec<D::Row>, DatabaseError> {
        let running = self.connection.fetch(sql(&self.statements), values);
        bounded::<_, D>(during, self.patience, running).await
    }

    async fn run(&mut self, during: &'static str, sql: String) -> Result<(), DatabaseError> {
        bounded::<_, D>(during, self.patience, self.connection.run(sql)).await
    }

    /// Several statements as one. What fails is rolled back, so that the connection can be used again.
    async fn in_transaction<T>(
        &mut self,
        during: &'static str,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        self.in_turn(async move |session| {
            session
                .run(during, session.statements.dialect.begin.to_owned())
                .await?;
            match work(session).await {
                Ok(output) => {
                    if let Err(error) = session.run(during, "COMMIT".to_owned()).await {
                        session.roll_back(during).await;
                        return Err(error);
                    }
                    Ok(output)
                }
                Err(error) => {
                    session.roll_back(during).await;
                    Err(error)
                }
            }
        })
        .await
    }

    async fn roll_back(&mut self, during: &'static str) {
        // A connection that cannot even do this is not used again, and the first error is the one that is told.
        let _ = self.run(during, "ROLLBACK".to_owned()).await;
    }

    async fn version(&mut self) -> Result<u32, DatabaseError> {
        const DURING: &str = "tell the version of its tables";
        let has_table = self.fetch(DURING, |all| &all.has_schema, vec![]).await?;
        if one_number(DURING, &has_table)? == 0 {
            return Ok(0);
        }
        let version = self.fetch(DURING, |all| &all.version, vec![]).await?;
        Ok(u32::try_from(one_number(DURING, &version)?).unwrap_or(u32::MAX))
    }

    fn newest(&self) -> u32 {
        u32::try_from(self.statements.migrations.len()).unwrap_or(u32::MAX)
    }

    fn too_new(&self, version: u32) -> DatabaseError {
        let newest = self.newest();
        let text = format!(
            "they are of version {version}, and this program knows {newest} at most: it is older than they are"
        );
        DatabaseError::new(DatabaseProblem::Schema, "check its tables", text)
    }
}

fn one_number<R: Cells>(during: &'static str, rows: &[R]) -> Result<i64, DatabaseError> {
    numbers_of(during, rows, 0)
}

fn numbers_of<R: Cells>(during: &'static str, rows: &[R], at: usize) -> Result<i64, DatabaseError> {
    let number = rows.first().map(|row| row.some_number(at));
    match number {
        Some(Ok(number)) => Ok(number),
        _ => Err(unexpected(during)),
    }
}

fn unexpected(during: &'static str) -> DatabaseError {
    DatabaseError::new(
        DatabaseProblem::Schema,
        during,
        "the answer is not of the expected shape",
    )
}
