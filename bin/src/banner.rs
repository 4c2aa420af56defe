//! What a demo says of itself when it starts.

use std::fmt::{self, Display};

/// The row that the walk uploads.
const ROW: &str = "550e8400-e29b-41d4-a716-446655440000";

/// The banner of demo mode, with a walk of three lines for any POSIX shell that has curl.
pub(crate) struct Banner<'a> {
    /// Where the server listens, without a slash at the end.
    pub(crate) url: &'a str,
    /// Where it keeps its data.
    pub(crate) database: &'a dyn Display,
    /// Whether the secret was made up.
    pub(crate) secret_generated: bool,
}

impl Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, database, secret_generated } = self;
        writeln!(f, "\nDEMO MODE: anybody on this machine can sign in as anybody. Not for real data.")?;
        writeln!(f, "Data is kept in: {database}")?;
        if *secret_generated {
            writeln!(f, "The secret that signs tokens was made up for this run; a restart ends all tokens.")?;
        }
        writeln!(f, "\nTwo devices of one user in sync: sign in both, upload with one, download with the other.\n")?;
        for line in walk(url) {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\nDocumentation and API explorer: {url}/\n")
    }
}

/// The token is the first string of the sign-in's answer, so that `cut` is enough to get at it.
fn walk(url: &str) -> [String; 3] {
    let json = "-H 'Content-Type: application/json'";
    [
        format!(
            r#"signin() {{ curl -s '{url}/dummy-signin' {json} -d '{{"user":"alice","password":"demo","device":"'"$1"'"}}' | cut -d'"' -f4; }}; PHONE=$(signin phone); LAPTOP=$(signin laptop)"#
        ),
        format!(
            r#"curl -s -w '\n' '{url}/sync/upload' -H "Authorization: Bearer $PHONE" {json} -d '{{"last_server_seq_seen":0,"changes":[{{"source_change_id":1,"table":"users","op":"INSERT","pk":"{ROW}","server_version":0,"payload":{{"id":"{ROW}","name":"Alice","email":"alice@example.com"}}}}]}}'"#
        ),
        format!(r#"curl -s -w '\n' '{url}/sync/download?after=0' -H "Authorization: Bearer $LAPTOP""#),
    ]
}
