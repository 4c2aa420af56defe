//! The commands about rows that could not be projected.

use clap::{ArgGroup, Args, Subcommand};
use outrigger_application::ports::projection::FailureFilter;
use outrigger_domain::{TableName, UserId};

use super::{Flags, OPERATING, table, user};

/// What is to be done with failures.
#[derive(Subcommand)]
pub(crate) enum FailuresCommand {
    /// List failures, by user and in the order in which they came to be.
    #[command(after_help = OPERATING)]
    List(ListArgs),
    /// Project the rows of failures as they stand now.
    #[command(after_help = OPERATING)]
    Retry(RetryArgs),
}

/// The flags of `failures list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only failures of this user
    #[arg(long, value_parser = user)]
    pub(crate) user: Option<UserId>,
    /// Only failures of tables in this schema
    #[arg(long, value_parser = schema)]
    pub(crate) schema: Option<String>,
    /// Only failures of tables of this name: TABLE or SCHEMA.TABLE
    #[arg(long, value_parser = table_filter)]
    pub(crate) table: Option<FailureFilter>,
    /// Failures to list, at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Print one JSON object a line, with the payload
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags of `failures retry`.
#[derive(Args)]
#[command(group = ArgGroup::new("which").args(["id", "table", "all"]).required(true))]
pub(crate) struct RetryArgs {
    /// One failure, by its number among those of the user
    #[arg(long, value_name = "NUMBER", requires = "user")]
    pub(crate) id: Option<i64>,
    /// All failures of tables of this name: TABLE or SCHEMA.TABLE
    #[arg(long, value_parser = table_filter)]
    pub(crate) table: Option<FailureFilter>,
    /// All failures
    #[arg(long)]
    pub(crate) all: bool,
    /// Only failures of this user
    #[arg(long, value_parser = user)]
    pub(crate) user: Option<UserId>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

fn schema(text: &str) -> Result<String, String> {
    // Both are known by the same rule, which a whole name applies to each of its parts.
    let name = TableName::parse(None, text).map_err(|why| why.to_string())?;
    Ok(name.table().to_owned())
}

fn table_filter(text: &str) -> Result<FailureFilter, String> {
    let name = table(text)?;
    let schema = text.contains('.').then(|| name.schema().to_owned());
    Ok(FailureFilter { schema, table: Some(name.table().to_owned()) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    #[test]
    fn a_retry_says_what_it_is_of() {
        let retry = |arguments: &[&str]| {
            let line = ["outrigger", "failures", "retry"].into_iter().chain(arguments.iter().copied());
            Cli::try_parse_from(line).map(Cli::chosen)
        };
        for good in [
            ["--all"].as_slice(),
            &["--table=users"],
            &["--id=1", "--user=alice"],
            &["--all", "--user=a", "--log=warn"],
        ] {
            assert!(retry(good).is_ok(), "{good:?}");
        }
        for bad in [
            [].as_slice(),
            &["--user=alice"],
            &["--id=1"],
            &["--all", "--table=users"],
            &["--all", "--id=1", "--user=alice"],
            &["--table=a-b"],
            &["--all", "--user="],
        ] {
            assert!(retry(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_table_without_a_schema_is_one_of_any() {
        let filter = |schema: Option<&str>| FailureFilter { schema: schema.map(Into::into), table: Some("a".into()) };
        assert_eq!(table_filter("A").unwrap(), filter(None));
        assert_eq!(table_filter("public.a").unwrap(), filter(Some("public")));
    }
}
