//! What becomes of an edit of a row that another device has changed meanwhile.

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A row as columns and their JSON values, as they go over the wire.
pub type Image = BTreeMap<String, Box<RawValue>>;

/// A row that was changed here and elsewhere.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The app's table.
    pub table: String,
    /// The row's key, as a UUID in text.
    pub pk: String,
    /// The row as it was when both began; none if it was new, or is not known any more.
    pub base: Option<Image>,
    /// The row here; none if it was deleted here.
    pub local: Option<Image>,
    /// The row on the server; none if it was deleted there.
    pub remote: Option<Image>,
}

/// What becomes of a conflict.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// The server's row; the local edit is given up.
    TakeRemote,
    /// The local row, or its deletion, which is uploaded on top of the server's.
    KeepLocal,
    /// This row, which is uploaded on top of the server's.
    Merge(Image),
}

type Resolver = Arc<dyn Fn(&Conflict) -> Resolution + Send + Sync>;

/// How conflicts are decided.
#[derive(Clone, Default)]
pub enum Conflicts {
    /// The server's row counts.
    ServerWins,
    /// The local row counts.
    ClientWins,
    /// Column by column: what was changed on one side only is kept, and of a column that was changed on both sides the
    /// local value. A row that was deleted on one side and changed on the other stays.
    #[default]
    MergeFields,
    /// The app decides.
    Custom(Resolver),
}

impl fmt::Debug for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerWins => "ServerWins",
            Self::ClientWins => "ClientWins",
            Self::MergeFields => "MergeFields",
            Self::Custom(_) => "Custom",
        })
    }
}

impl Conflicts {
    /// Decided by that function. It runs in the middle of a sync, while nothing else of the client works: it must not use
    /// that.
    ///
    /// ```
    /// use outrigger_client::{Config, Conflicts, Resolution};
    ///
    /// // A counter: of two devices the one that has counted further counts.
    /// let counters = Conflicts::custom(|conflict| {
    ///     let count = |image: &Option<outrigger_client::Image>| -> i64 {
    ///         image.as_ref().and_then(|image| image.get("count")?.get().parse().ok()).unwrap_or(0)
    ///     };
    ///     if count(&conflict.local) > count(&conflict.remote) {
    ///         Resolution::KeepLocal
    ///     } else {
    ///         Resolution::TakeRemote
    ///     }
    /// });
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) })
    ///     .table("counters")
    ///     .conflicts(counters);
    /// # drop(config);
    /// ```
    pub fn custom(resolver: impl Fn(&Conflict) -> Resolution + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(resolver))
    }

    pub(crate) fn decide(&self, conflict: &Conflict) -> Resolution {
        // What both did alike needs no decision.
        if same(conflict.local.as_ref(), conflict.remote.as_ref()) {
            return Resolution::TakeRemote;
        }
        match self {
            Self::ServerWins => Resolution::TakeRemote,
            Self::ClientWins => Resolution::KeepLocal,
            Self::MergeFields => merge(conflict),
            Self::Custom(resolver) => resolver(conflict),
        }
    }
}

/// Whether they are the same row.
pub(crate) fn same(a: Option<&Image>, b: Option<&Image>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|of| of.get() == value.get()))
        }
        _ => false,
    }
}

fn merge(conflict: &Conflict) -> Resolution {
    let (Some(local), Some(remote)) = (&conflict.local, &conflict.remote) else {
        return if conflict.local.is_some() { Resolution::KeepLocal } else { Resolution::TakeRemote };
    };
    let text = |image: &Image, name: &str| image.get(name).map(|value| value.get().to_owned());
    let mut merged = remote.clone();
    for (name, value) in local {
        let is_changed_here = match &conflict.base {
            Some(base) => text(base, name).as_deref() != Some(value.get()),
            // Nothing is known of what it was: the local row counts.
            None => true,
        };
        if is_changed_here {
            merged.insert(name.clone(), value.clone());
        }
    }
    if same(Some(&merged), Some(remote)) { Resolution::TakeRemote } else { Resolution::Merge(merged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: &str) -> Option<Image> {
        Some(serde_json::from_str(json).unwrap())
    }

    fn merged(base: Option<Image>, local: Option<Image>, remote: Option<Image>) -> String {
        let conflict = Conflict { table: "t".into(), pk: String::new(), base, local, remote };
        match Conflicts::MergeFields.decide(&conflict) {
            Resolution::TakeRemote => "remote".into(),
            Resolution::KeepLocal => "local".into(),
            Resolution::Merge(image) => serde_json::to_string(&image).unwrap(),
        }
    }

    #[test]
    fn each_column_is_taken_from_the_side_that_changed_it() {
        let base = || image(r#"{"a":1,"b":2,"c":3}"#);
        assert_eq!(
            merged(base(), image(r#"{"a":9,"b":2,"c":3}"#), image(r#"{"a":1,"b":8,"c":3}"#)),
            r#"{"a":9,"b":8,"c":3}"#
        );
        assert_eq!(
            merged(base(), image(r#"{"a":9,"b":2,"c":3}"#), image(r#"{"a":7,"b":2,"c":3}"#)),
            r#"{"a":9,"b":2,"c":3}"#
        );
        assert_eq!(merged(base(), base(), image(r#"{"a":7,"b":2,"c":3}"#)), "remote");
        assert_eq!(merged(None, image(r#"{"a":9}"#), image(r#"{"a":7,"b":2}"#)), r#"{"a":9,"b":2}"#);
    }

    #[test]
    fn an_edit_outlives_a_deletion() {
        assert_eq!(merged(image("{}"), None, image(r#"{"a":1}"#)), "remote");
        assert_eq!(merged(image("{}"), image(r#"{"a":1}"#), None), "local");
        assert_eq!(merged(image("{}"), None, None), "remote");
    }
}
