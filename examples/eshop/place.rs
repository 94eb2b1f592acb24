//! Where the databases of the services are.

use std::path::PathBuf;

use crate::database::DataError;
#[cfg(feature = "postgres")]
use crate::services::Service;

#[derive(Clone, Debug)]
pub enum Place {
    /// A file for each in this directory.
    Files(PathBuf),
    /// A schema for each.
    #[cfg(feature = "postgres")]
    Postgres(String),
}

impl Place {
    /// What the schema of a service is called.
    #[cfg(feature = "postgres")]
    pub fn schema(name: &str) -> String {
        format!("eshop_{name}")
    }

    /// As the arguments of another process.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Files(directory) => vec![format!("--data={}", directory.display())],
            #[cfg(feature = "postgres")]
            // The URL goes by the environment: it may hold a password.
            Self::Postgres(_) => Vec::new(),
        }
    }

    /// The URL, for the environment of another process.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Files(_) => None,
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => Some(url),
        }
    }

    /// Removes what an earlier run has left.
    ///
    /// # Errors
    /// The database's.
    pub async fn clear(&self) -> Result<(), DataError> {
        match self {
            // A directory that is given is gone on with, and a new one is empty.
            Self::Files(_) => {}
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                let pool = sqlx::PgPool::connect(url).await?;
                let names = Service::ALL.map(Service::name);
                for name in names.into_iter().chain(["eshop"]) {
                    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", Self::schema(name));
                    sqlx::query(sqlx::AssertSqlSafe(drop))
                        .execute(&pool)
                        .await?;
                }
                pool.close().await;
            }
        }
        Ok(())
    }
}

/// A place, and whether it is removed with this.
pub struct Premises {
    pub place: Place,
    temporary: Option<PathBuf>,
}

impl Premises {
    /// What was asked for, or a directory that is removed at the end.
    pub fn new(asked: Option<Place>) -> Self {
        match asked {
            Some(place) => Self {
                place,
                temporary: None,
            },
            None => {
                let name = format!("postroom-eshop-{}", std::process::id());
                let directory = std::env::temp_dir().join(name);
                Self {
                    place: Place::Files(directory.clone()),
                    temporary: Some(directory),
                }
            }
        }
    }
}

impl Drop for Premises {
    fn drop(&mut self) {
        if let Some(directory) = &self.temporary {
            // Somebody may look at what could not be removed.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
