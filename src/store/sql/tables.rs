#[cfg(feature = "postgres")]
use crate::store::number_of;
use crate::store::{DatabaseError, DatabaseProblem};

/// The longest prefix or schema; what is longer, PostgreSQL would cut off.
const LONGEST: usize = 30;

const TABLES: [&str; 8] = [
    "outbox",
    "lanes",
    "relays",
    "inbox",
    "queue",
    "consumers",
    "dead_letters",
    "schema",
];

/// Where the tables of a store are.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) prefix: String,
    /// PostgreSQL's schema; none: the first of the search path.
    pub(super) schema: Option<String>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            prefix: "postroom_".to_owned(),
            schema: None,
        }
    }
}

impl Tables {
    /// That the names can stand in a statement as they are.
    pub(super) fn check(&self) -> Result<(), DatabaseError> {
        for (what, name) in [
            ("prefix", Some(&self.prefix)),
            ("schema", self.schema.as_ref()),
        ] {
            let Some(name) = name else { continue };
            let is_name = |name: &str| {
                let mut chars = name.chars();
                let first = chars.next();
                first.is_some_and(|first| first.is_ascii_lowercase() || first == '_')
                    && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            };
            let is_empty_prefix = what == "prefix" && name.is_empty();
            if !is_empty_prefix && (!is_name(name) || name.len() > LONGEST) {
                let text = format!(
                    "a {what} has at most {LONGEST} characters of `a` to `z`, `0` to `9` and `_`, and does not \
                     begin with a digit: `{}`",
                    name.escape_debug()
                );
                return Err(DatabaseError::new(
                    DatabaseProblem::Configuration,
                    "name its tables",
                    text,
                ));
            }
        }
        Ok(())
    }

    /// The channel on which it is told of new rows of a table. Of two stores in schemas that are found by their search path
    /// it is the same: then some hear too much.
    #[cfg(feature = "postgres")]
    pub(super) fn channel(&self, table: &str) -> String {
        let schema = self.schema.as_deref().unwrap_or_default();
        let name = format!("{schema}.{}", self.prefix);
        // A channel's name is shorter than a schema's and a prefix's together.
        let hash = number_of(&name);
        format!("postroom_{hash:016x}_{table}")
    }

    /// Puts the tables' names into a statement: `{outbox}` is the table, `{outbox_}` the beginning of its indexes'
    /// names.
    pub(super) fn fill(&self, sql: &str) -> String {
        let mut filled = sql.to_owned();
        for table in TABLES {
            let name = format!("{}{table}", self.prefix);
            filled = filled.replace(&format!("{{{table}_}}"), &format!("{name}_"));
            let place = match &self.schema {
                Some(schema) => format!("{schema}.{name}"),
                None => name,
            };
            filled = filled.replace(&format!("{{{table}}}"), &place);
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_need_no_quotes_stand_in_a_statement() {
        for (prefix, is_good) in [
            ("postroom_", true),
            ("", true),
            ("a1", true),
            ("1a", false),
            ("a; DROP TABLE users", false),
            ("Ä", false),
            ("a234567890123456789012345678901", false),
        ] {
            let tables = Tables {
                prefix: prefix.to_owned(),
                schema: None,
            };
            assert_eq!(tables.check().is_ok(), is_good, "{prefix}");
        }
    }

    #[test]
    fn names_are_filled_in() {
        let mut tables = Tables::default();
        assert_eq!(
            tables.fill("CREATE INDEX {outbox_}dead ON {outbox}"),
            "CREATE INDEX postroom_outbox_dead ON postroom_outbox"
        );
        tables.schema = Some("mail".to_owned());
        assert_eq!(
            tables.fill("CREATE INDEX {outbox_}dead ON {outbox}"),
            "CREATE INDEX postroom_outbox_dead ON mail.postroom_outbox"
        );
    }
}
