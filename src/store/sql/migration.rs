use super::tables::Tables;

/// Who makes the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrations {
    /// The store, when the bus starts: what is missing of [`Store::migrations`](crate::Store::migrations), each
    /// in a transaction, one process at a time.
    #[default]
    Run,
    /// Somebody else has, by their own tool. The bus checks the version, and is unready where it is another.
    Assume,
}

/// One step of the schema. Applied in order of the versions, each of them once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// 1 is the first.
    pub version: u32,
    /// What it brings.
    pub name: &'static str,
    /// Its statements. What runs them writes the version into the table `…schema` in the same transaction; for who
    /// runs them by hand that statement is the last one.
    pub sql: String,
}

/// The steps with the tables' names filled in, and with what notes them.
pub(super) fn migrations(steps: &[(&'static str, &str)], tables: &Tables) -> Vec<Migration> {
    let numbered = steps.iter().zip(1_u32..);
    numbered
        .map(|((name, sql), version)| {
            let sql = tables.fill(sql);
            let note = tables.fill("INSERT INTO {schema} (version, name) VALUES");
            Migration {
                version,
                name,
                sql: format!("{sql}{note} ({version}, '{name}');\n"),
            }
        })
        .collect()
}
